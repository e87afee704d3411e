"""The search without tuning: races prompts by a model's answers, for models such as those behind endpoints."""
