"""Training files of other projects as recipes: one table of keys per project, and a small engine that reads them."""
