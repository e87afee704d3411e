"""The search by label words and written answers: prompts raced by likelihoods, then trials of tuned weights side by side."""
