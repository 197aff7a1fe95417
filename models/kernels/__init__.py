"""Passes of quantized layers in one go: in C++, 8-bit integers, Triton. Nothing is imported here."""
