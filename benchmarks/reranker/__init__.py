"""Pairs a second of cross-encoder scoring, against sentence-transformers."""
