"""Exact, differentiable log-probabilities of answers: trees of prompts, packing, kernels, and what a model allows."""
