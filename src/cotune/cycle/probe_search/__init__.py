"""The search for label tasks on a local model: races prompts by probes on hidden states, then tunes a window of layers."""

from __future__ import annotations
