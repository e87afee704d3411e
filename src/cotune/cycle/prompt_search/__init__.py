"""The search where weights stay as they are: prompts raced by what a model answers, such as one behind an endpoint."""
