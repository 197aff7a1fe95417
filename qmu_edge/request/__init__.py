"""Deletion requests: the document, its deadline, the samples that it names, the split that follows."""
