"""Progress of a run between its journal's lines, and its remaining time."""

from __future__ import annotations

from typing import Any, Protocol

from cotune.cycle.budget.rates import CostModel


class Watcher(Protocol):
    """Receives a run's progress between its journal's lines."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """A number of further tokens were computed in a stage."""
        ...

    def set_time_left(self, seconds: float | None) -> None:
        """Set the remaining time of the run; None if it is unknown."""
        ...


class View(Watcher, Protocol):
    """Shows a run's progress."""

    def event(self, event: dict[str, Any]) -> None:
        """A line of the journal."""
        ...


class Quiet:
    """A view that shows nothing."""

    def event(self, event: dict[str, Any]) -> None:
        """Nothing."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """Nothing."""

    def set_time_left(self, seconds: float | None) -> None:
        """Nothing."""


def say(view: View, text: str) -> None:
    """Show a note that is not in the journal."""
    view.event({"n": -1, "kind": "note", "value": {"text": text}})


class TimeLeft:
    """Tells a watcher the remaining time of a run, by its remaining budget of time or tokens."""

    def __init__(self, costs: CostModel, watcher: Watcher) -> None:
        self._costs, self._watcher, self._unneeded = costs, watcher, 0.0

    def tell(self, left: float) -> None:
        """Update the remaining budget."""
        needed = left - self._unneeded
        self._watcher.set_time_left(needed / self._costs.score_rate if self._costs.budget.kind == "tokens" else needed)

    def expect(self, cost: float | None, left: float) -> None:
        """Set how much of the remaining budget will be needed; None means that all of it may be."""
        self._unneeded = 0.0 if cost is None else max(0.0, left - cost)
        self.tell(left)
