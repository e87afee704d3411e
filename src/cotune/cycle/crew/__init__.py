"""A run's work on workers: states of rows, fits of probes, tuning, and the scores of the test."""
