"""The search for label tasks on a local model: prompts raced by probes on hidden states, then a window of layers tuned."""

from __future__ import annotations
