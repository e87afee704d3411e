"""Modules and weights that take the place of a decoder's own layers."""
