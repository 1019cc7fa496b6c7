"""The run card: what a model is, what it was made from and how well it does, in the hub's model-card format."""
