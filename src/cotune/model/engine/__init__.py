"""The engine: packed passes over rows with a shared prefix, scoring, hidden states and generation."""
