"""One file for each format. Nothing is imported here."""
