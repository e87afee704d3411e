"""Bundles as folders that other tools read."""
