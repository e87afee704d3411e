"""Parts that all searches share: pools, the race by model outputs, measurements on dev, and the arms at the end."""
