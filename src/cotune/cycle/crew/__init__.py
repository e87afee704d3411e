"""Jobs of a run for its workers: states of rows, fits of probes, tunings, label scores."""
