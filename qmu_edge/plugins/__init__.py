"""What other packages plug in: datasets, networks, methods, metrics, observers."""
