"""Low-bit networks of Brevitas layers, and their deploy form. Nothing is imported here."""
