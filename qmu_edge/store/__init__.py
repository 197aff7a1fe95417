"""What a project keeps on disk: objects by digest, encrypted or not, its lock, its ledger. Needs no torch."""
