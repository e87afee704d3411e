"""The available experiment trackers. A tracker's package is imported only when it is used."""

from __future__ import annotations

from importlib import import_module

from cotune.errors import not_installed
from cotune.tracking.tracker import Tracker

_CLASSES = {"mlflow": "MlflowTracker", "wandb": "WandbTracker", "tensorboard": "TensorboardTracker"}
"""Class of each tracker, in the module of its name."""


def tracker_of(name: str | None) -> Tracker | None:
    """The tracker with a name from the config; None if tracking is off.

    Raises:
        InputError: if its package is not installed or its server cannot be reached.
    """
    if name is None:
        return None
    try:
        tracker: Tracker = getattr(import_module(f"cotune.tracking.{name}"), _CLASSES[name])()
    except ImportError as error:
        raise not_installed(name, "tracking", error) from error
    return tracker
