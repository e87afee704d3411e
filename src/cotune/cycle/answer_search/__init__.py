"""The search by a model's own answers: races prompts by their log-loss or score, and tunes several if it can."""
