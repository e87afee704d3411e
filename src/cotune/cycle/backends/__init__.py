"""Who answers in a run: a model on this machine, or one behind an endpoint."""
