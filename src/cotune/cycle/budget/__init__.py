"""Budget, spending and prices of a run."""
