"""WHERE prompts and inputs lie: vectors from the model itself, distances, farthest-first order."""

from __future__ import annotations
