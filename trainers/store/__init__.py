"""What a reference said of each answer, token by token, kept on disk by content."""
