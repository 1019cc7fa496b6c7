"""What runs, in which order, where, and whether it is done. Imports no torch."""
