"""How prompts are answered and judged, by kind of output."""
