"""What this computer has, and what a piece of work costs on it. Needs the standard library only."""
