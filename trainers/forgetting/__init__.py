"""Unlearning: forget and retain sets, training, and the measures of what is forgotten and what is kept."""
