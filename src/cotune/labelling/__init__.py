"""Active learning: picks the rows of a pool whose labels would help most, and asks a person for these labels."""
