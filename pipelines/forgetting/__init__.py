"""The page and plots of an unlearning suite."""
