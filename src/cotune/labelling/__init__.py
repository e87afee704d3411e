"""Labelling the rows that matter: which rows of a pool to label, and asking for their labels."""
