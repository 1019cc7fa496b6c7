"""Losses of the lattice trained on the same pairs: what each does to chosen and rejected answers, over three seeds."""
