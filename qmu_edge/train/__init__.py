"""Training: batches, the loop that all methods share, checkpoints, re-quantization."""
