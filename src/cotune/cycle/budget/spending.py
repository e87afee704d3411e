"""The spending of a run: its remaining budget, payments, and progress messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cotune.cycle.budget.account import Account
from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.row_costs import RowCosts
from cotune.cycle.budget.stopwatch import Stopwatch
from cotune.cycle.journal import Journal
from cotune.cycle.progress import TimeLeft, Watcher

_SLOW = 4.0
"""Slowdown from which a machine is called slow; the plan's guess is off by at most a factor of two."""


class Spending:
    """The budget of a run: prices, payments and what is left.

    Args:
        costs: the budget and prices of tokens.
        rows: prices of rows.
        journal: its clock measures a time budget.
        watcher: receives the remaining time of the run.
        stopwatch: stopwatch that ran while the model was loaded; None takes a new one.

    Attributes:
        account: the account so far.
        stopwatch: seconds of model work within steps that do other things too.
    """

    def __init__(
        self, costs: CostModel, rows: RowCosts, journal: Journal, watcher: Watcher, stopwatch: Stopwatch | None = None
    ) -> None:
        self.costs, self.rows = costs, rows
        self.account, self.stopwatch = Account(), stopwatch or Stopwatch()
        self._journal, self._time_left = journal, TimeLeft(costs, watcher)
        self._told_slow = False

    @property
    def budget(self) -> Budget:
        """The budget."""
        return self.costs.budget

    def left(self) -> float:
        """Remaining budget, in its unit. A remaining time is recorded in the journal, because decisions depend on it."""
        if self.budget.kind == "tokens":
            left = self.budget.amount - self.account.tokens
            self._time_left.tell(left)
            return left
        if self.budget.kind == "money":
            return self.budget.amount - self.account.dollars
        left = self.budget.amount - float(self._journal.step("clock", "clock", lambda: round(self._journal.clock(), 2)))
        self._time_left.tell(left)
        return left

    def left_within_step(self) -> float:
        """Remaining budget within a step; the clock is not recorded, because the step's value is."""
        budget = self.budget
        return budget.amount - self._journal.clock() if budget.kind == "time" else self.left()

    def expect_end(self, cost: float | None) -> None:
        """Report that only ``cost`` is still needed because the search is over; None means that it continues."""
        budget = self.budget
        # The pace of spending money is unknown.
        if budget.kind != "money":
            spent = self._journal.clock() if budget.kind == "time" else self.account.tokens
            self._time_left.expect(cost, budget.amount - spent)

    def charge(self, value: Mapping[str, Any], kind: str, saw: Callable[[int, float], None]) -> None:
        """Pay for a recorded step.

        Args:
            value: record of the step.
            kind: the account's entry for its tokens.
            saw: called with its tokens and seconds, to learn the rate.
        """
        self.account.charge(value, kind)
        if value["seconds"]:
            saw(int(value["tokens"]), float(value["seconds"]))
        if (
            not (self._told_slow or self._journal.replaying)
            and self.budget.kind == "time"
            and (slowdown := self.costs.slowdown) >= _SLOW
        ):
            self._told_slow = True
            self._journal.tell(
                f"this machine is about {slowdown:.0f} times slower than planned; is something else running? To end the "
                "search now, give the same cotune run command with --finish in another terminal; a larger --budget or a "
                "smaller limit.test leaves it more room"
            )
        if "dollars" in value:
            self.costs.saw_paying(int(value["tokens"]), float(value["dollars"]))
