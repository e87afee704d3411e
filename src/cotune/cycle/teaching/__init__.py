"""The teacher: a model behind an endpoint that labels unlabelled rows."""
