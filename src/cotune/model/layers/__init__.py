"""Replacements for a decoder's own layers, and decoders that run only some of them."""
