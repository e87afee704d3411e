"""Experiment trackers: MLflow, Weights & Biases and TensorBoard, which receive the events of a run."""

from __future__ import annotations

from cotune.tracking.follow import tracked
from cotune.tracking.registry import tracker_of
from cotune.tracking.tracker import Tracker

__all__ = ["Tracker", "tracked", "tracker_of"]
