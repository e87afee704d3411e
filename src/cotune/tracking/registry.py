"""The available experiment trackers. A tracker's package is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cotune.errors import not_installed
from cotune.tracking.tracker import Tracker


def _mlflow() -> Tracker:
    from cotune.tracking.mlflow import MlflowTracker

    return MlflowTracker()


def _wandb() -> Tracker:
    from cotune.tracking.wandb import WandbTracker

    return WandbTracker()


def _tensorboard() -> Tracker:
    from cotune.tracking.tensorboard import TensorboardTracker

    return TensorboardTracker()


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"mlflow": _mlflow, "wandb": _wandb, "tensorboard": _tensorboard}


def tracker_of(name: str | None) -> Tracker | None:
    """The tracker with a name from the config; None if tracking is off.

    Raises:
        InputError: if its package is not installed or its server cannot be reached.
    """
    if name is None:
        return None
    try:
        return TRACKERS[name]()
    except ImportError as error:
        raise not_installed(name, "tracking", error) from error
