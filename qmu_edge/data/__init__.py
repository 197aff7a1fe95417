"""Samples: where they come from, their index, and the tombstones of deleted ones. Needs no torch."""
