"""WHERE prompts and inputs lie: vectors from the model itself, distances, farthest-first order."""

from __future__ import annotations

from cotune.embed.embedder import Embedder, PromptEOL, behaviour, centred
from cotune.embed.select import distances, farthest_first, without_near_duplicates

__all__ = ["Embedder", "PromptEOL", "behaviour", "centred", "distances", "farthest_first", "without_near_duplicates"]
