"""What must hold between the stages of a recipe, beyond the types of their settings."""
