"""What a run may still spend, what it has spent, and what is told of that."""

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
"""Times slower than planned from which a machine is called slow; the plan's own guess is off by two at most."""


class Spending:
    """The budget of a run: prices, payments and what is left.

    Args:
        costs: the budget, and what tokens cost.
        rows: what rows cost, as far as any were run.
        journal: whose clock a time budget goes by.
        watcher: is told how long the run will still take.
        stopwatch: that has run while the model was loaded; None begins with a fresh one.

    Attributes:
        account: what has been spent so far.
        stopwatch: seconds of model work in steps that do other things too.
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
        """How much may be spent, and of what."""
        return self.costs.budget

    def left(self) -> float:
        """Budget that is left, in its unit. Under a time budget this is journalled, since decisions hang on it."""
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
        """The same inside of a step, whose recorded value stands for what the clock said."""
        budget = self.budget
        return budget.amount - self._journal.clock() if budget.kind == "time" else self.left()

    def expect_end(self, cost: float | None) -> None:
        """Tell that only so much of the budget is still needed, the search being over; None where it goes on."""
        budget = self.budget
        # Money passes at no pace that is known.
        if budget.kind != "money":
            spent = self._journal.clock() if budget.kind == "time" else self.account.tokens
            self._time_left.expect(cost, budget.amount - spent)

    def charge(self, value: Mapping[str, Any], kind: str, saw: Callable[[int, float], None]) -> None:
        """Pay for a recorded step.

        Args:
            value: its record.
            kind: the count of the account that its tokens belong to.
            saw: learns from its tokens and seconds how fast such steps are.
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
