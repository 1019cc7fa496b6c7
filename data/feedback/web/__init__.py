"""The page that people label on, and the server behind it."""
