"""CHANGING the weights: LoRA adapters or prefixes trained with a shared prompt prefix, checkpoints, schedule."""

from __future__ import annotations
