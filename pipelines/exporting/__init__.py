"""A stage's model on its way out of a run: into a folder, or onto the hub."""
