"""Grammars and schemas that written answers are held to."""
