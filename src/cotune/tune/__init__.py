"""Tuning: training of LoRA adapters with a shared prompt prefix, checkpoints, schedules."""

from __future__ import annotations
