"""`heliograph loss`: preference losses as logic, on the terminal and as one page."""
