"""The ledger: requests, steps, samples, tombstones, keys and receipts in one database of chained changes."""
