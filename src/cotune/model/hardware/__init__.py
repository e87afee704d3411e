"""What this machine can compute, and how fast."""
