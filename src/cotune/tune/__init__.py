"""Tuning: training of LoRA adapters or prefixes with a shared prompt prefix, checkpoints, schedules."""

from __future__ import annotations
