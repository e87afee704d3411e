"""Active learning: picks the rows of a pool that are worth a label, and asks a person for their labels."""
