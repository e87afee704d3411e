"""Export of bundles to formats of other tools."""
