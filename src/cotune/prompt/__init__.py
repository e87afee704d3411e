"""Prompts: the Prompt value object, the starting bank, and the one renderer to token ids."""
