"""ILLUME and its placebo in the invented world."""
