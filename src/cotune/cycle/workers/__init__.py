"""The workers of a run and their jobs: hidden states, probe fits, tuning and label scores."""
