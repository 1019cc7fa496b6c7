"""Encoding and searching passages, against the libraries called plainly, and a million passages in bounded memory."""
