"""Sections of the page, one in each module."""
