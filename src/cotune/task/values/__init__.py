"""Kinds of outputs: labels, text, numbers and JSON."""
