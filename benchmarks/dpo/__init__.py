"""A step of preference training: Heliograph's engine and store beside TRL's trainer, on the same rows and weights."""
