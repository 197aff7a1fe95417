"""Networks as files for devices. Nothing is imported here."""
