"""Find models by name and load them."""
