"""How PyTorch computes here: device, memory, parallel processes, determinism, throughput, profiles."""
