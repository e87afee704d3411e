"""Constrained generation: grammars and JSON Schemas of answers."""
