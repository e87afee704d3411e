"""Parts that both searches share: pools, the guide for later pools, measurements on dev, and the arms at the end."""
