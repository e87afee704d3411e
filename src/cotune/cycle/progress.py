"""What is told of a run between its journal's lines: its progress, and how long it will still take."""

from __future__ import annotations

from typing import Any, Protocol

from cotune.cycle.budget.rates import CostModel


class Watcher(Protocol):
    """Is told how a run goes on between its journal's lines."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """So many more tokens were run in this stage."""
        ...

    def set_time_left(self, seconds: float | None) -> None:
        """How long the run will take from now; None where that is not known."""
        ...


class View(Watcher, Protocol):
    """Shows how a run goes on."""

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
    """Name what takes its time before the first step of the journal."""
    view.event({"n": -1, "kind": "note", "value": {"text": text}})


class TimeLeft:
    """Tells a watcher how long a run will still take, from what is left of its budget of time or tokens.

    Args:
        costs: the budget, and how fast tokens pass.
        watcher: who is told.
    """

    def __init__(self, costs: CostModel, watcher: Watcher) -> None:
        self._costs, self._watcher, self._unneeded = costs, watcher, 0.0

    def tell(self, left: float) -> None:
        """So much of the budget is left."""
        needed = left - self._unneeded
        self._watcher.set_time_left(needed / self._costs.score_rate if self._costs.budget.kind == "tokens" else needed)

    def expect(self, cost: float | None, left: float) -> None:
        """Only so much of what is left will be needed; None where nobody knows, and all of it may be."""
        self._unneeded = 0.0 if cost is None else max(0.0, left - cost)
        self.tell(left)
