"""Unlearning methods, their registry and what they share. Nothing is imported here."""
