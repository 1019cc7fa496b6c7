"""Measurements of unlearning."""
