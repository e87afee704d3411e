"""The search by label words and written answers: races prompts by likelihood, then tunes several in trials."""
