"""A teacher: a model behind an endpoint that labels rows which nobody has labelled."""
