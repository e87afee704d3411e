"""Tasks: reading labelled rows, splitting them, detecting leaks, computing metrics."""

from __future__ import annotations

from cotune.task.metrics.metric import Metric

__all__ = ["Metric"]
