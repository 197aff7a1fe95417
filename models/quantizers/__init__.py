"""Quantizers of weights and activations, for Brevitas layers. Nothing is imported here."""
