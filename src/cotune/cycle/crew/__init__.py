"""Jobs that a run gives its workers: hidden states, probe fits, tuning and label scores."""
