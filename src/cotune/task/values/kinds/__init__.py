"""The output kinds, one file per kind, and their registry."""
