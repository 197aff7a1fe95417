"""Erasure receipts: their form, their signature, and how anybody checks one. Needs no torch, no project."""
