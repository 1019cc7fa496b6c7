"""Watchdogs of preference training and unlearning: figures, rules over them, and what happens when one fires."""
