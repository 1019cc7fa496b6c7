"""Records of what is to be forgotten and kept: authors, refusals, TOFU's format."""
