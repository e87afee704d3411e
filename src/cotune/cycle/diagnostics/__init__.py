"""Checks of a run's data and results."""
