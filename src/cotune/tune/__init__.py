"""CHANGING the weights: LoRA adapters trained with a shared prompt prefix, checkpoints, schedule."""

from __future__ import annotations
