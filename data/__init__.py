"""Records: reading, checking, counting and tokenising them. Imports no torch."""
