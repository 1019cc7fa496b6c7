"""Preference losses stated as logic; all of it is torch-free but `compiled`."""
