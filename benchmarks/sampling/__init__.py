"""Candidates for preference collection: this sampler against transformers' own `generate`."""
