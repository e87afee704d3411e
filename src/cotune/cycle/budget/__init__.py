"""What a run may spend, what it has spent, and what its steps will cost."""
