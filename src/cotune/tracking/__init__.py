"""WHERE a run is also told of: experiment trackers, by the events that a view is shown."""

from __future__ import annotations

from cotune.tracking.follow import tracked
from cotune.tracking.registry import tracker_of
from cotune.tracking.tracker import Tracker

__all__ = ["Tracker", "tracked", "tracker_of"]
