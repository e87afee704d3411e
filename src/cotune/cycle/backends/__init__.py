"""Backends: models on this machine, and models behind an endpoint."""
