"""Several runs: listing those of a folder, choosing the next free folder, and comparing two runs."""
