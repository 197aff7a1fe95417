"""Files, JSON and progress. Needs no torch."""
