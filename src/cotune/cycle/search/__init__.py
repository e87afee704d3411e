"""What all searches share: the pool, the race by what a model says, what was measured, and the arms at the end."""
