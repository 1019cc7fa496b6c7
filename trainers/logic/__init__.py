"""Preference losses stated as logic. Torch-free but for `compiled`; only `stated` knows a recipe's settings."""
