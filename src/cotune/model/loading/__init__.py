"""Finding a model and loading it."""
