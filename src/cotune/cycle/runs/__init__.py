"""Runs side by side: those of a folder, the next free folder, and two runs compared."""
