"""What a run checks about its data and its result."""
