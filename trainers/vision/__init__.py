"""Models that see: their processors, pictures in prompts and batches, and a small one built from scratch."""
