"""The spending of a run: its remaining budget, payments, and progress messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.row_costs import RowCosts
from cotune.cycle.journal import Journal
from cotune.cycle.progress import TimeLeft, Watcher

_SLOW = 4.0
"""Slowdown from which a machine is called slow; the plan's guess is off by at most a factor of two."""
_SPENT = ("tokens_scored", "tokens_written", "tokens_trained", "tokens_embedded")


class Account:
    """Adds up the recorded costs of steps.

    Attributes:
        counts: tokens scored, written, trained, embedded, and saved by the shared prefix.
        truncated: maximum, over requests, of the number of rows whose text was shortened.
        unmatched: maximum, over requests, of the number of rows whose answer named no label.
        dollars: cost of the answers of all endpoints.
        judged: rows of the judge, rows that it refused, tokens and dollars.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys((*_SPENT, "tokens_saved_by_prefix"), 0)
        self.truncated = 0
        self.unmatched = 0
        self.dollars = 0.0
        self.judged: dict[str, float] = {"rows": 0, "refused": 0, "tokens": 0, "dollars": 0.0}

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return sum(self.counts[name] for name in _SPENT)

    def charge(self, value: Mapping[str, Any], kind: str) -> None:
        """Charge a step that asked the model; ``kind`` is the entry of :attr:`counts` for its tokens."""
        self.counts[kind] += int(value["tokens"])
        self.counts["tokens_saved_by_prefix"] += int(value["saved"])
        self.truncated = max(self.truncated, int(value["truncated"]))
        self.unmatched = max(self.unmatched, int(value.get("unmatched", 0)))
        self.pay(value)
        self.saw_judging(value.get("judged", {}))

    def pay(self, value: Mapping[str, Any]) -> None:
        """Charge the ``dollars`` of a recorded step, if any."""
        self.dollars += float(value.get("dollars", 0.0))

    def saw_judging(self, value: Mapping[str, Any]) -> None:
        """Count the judge's work in a recorded step."""
        self.judged = {name: count + value.get(name, 0) for name, count in self.judged.items()}


class Stopwatch:
    """Adds up the seconds that pass inside its ``with`` blocks, until a step records them as its ``seconds``."""

    def __init__(self) -> None:
        self._seconds = self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *raised: object) -> None:
        self._seconds += time.monotonic() - self._started

    def taken(self) -> dict[str, float]:
        """``seconds`` since the last call, for a step's record."""
        seconds, self._seconds = self._seconds, 0.0
        return {"seconds": round(seconds, 3)}


def untimed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A step's record without its ``seconds``, so that a resumed run gives an equal one."""
    return {name: item for name, item in recorded.items() if name != "seconds"}


class Spending:
    """The budget of a run: prices of tokens and rows, payments and what is left.

    ``stopwatch`` measures model work within steps that do other things too, and before that the loading of the model.
    ``account`` holds what was paid before, if anything.
    """

    def __init__(
        self,
        costs: CostModel,
        rows: RowCosts,
        journal: Journal,
        watcher: Watcher,
        stopwatch: Stopwatch,
        account: Account | None = None,
    ) -> None:
        self.costs, self.rows = costs, rows
        self.account, self.stopwatch = account or Account(), stopwatch
        self._journal, self._time_left = journal, TimeLeft(costs, watcher)
        self._told_slow = False

    @property
    def budget(self) -> Budget:
        """The budget."""
        return self.costs.budget

    def left(self) -> float:
        """Remaining budget, in its unit. A remaining time is recorded in the journal, because decisions depend on it."""
        if self.budget.kind == "money":
            return self.budget.amount - self.account.dollars
        spent = float(self.account.tokens)
        if self.budget.kind == "time":
            spent = float(self._journal.step("clock", "clock", lambda: round(self._journal.clock(), 2)))
        self._time_left.tell(self.budget.amount - spent)
        return self.budget.amount - spent

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
        """Pay for a recorded step; ``kind`` is the account's entry for its tokens.

        ``saw`` is called with its tokens and seconds, to learn the rate.
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
