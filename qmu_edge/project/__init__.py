"""A user's folder: its recipe, its store, what lies in it, and what is current. Needs no torch."""
