"""The kinds of outputs, one file a kind, and their registry."""
