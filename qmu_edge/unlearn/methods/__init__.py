"""One file for each unlearning method. Nothing is imported here."""
