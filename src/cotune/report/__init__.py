"""Display of runs: the live view and final summary in a terminal, the HTML report, and its server."""
