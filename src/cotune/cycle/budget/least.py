"""Checks that refuse budgets that are far too small, before the model is loaded; the exact check follows later."""

from __future__ import annotations

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.reserve import closing_cost
from cotune.errors import BudgetError
from cotune.task.task import Task

SENSIBLE = {"time": "60s", "tokens": "50ktok"}
"""Advised minimum: the bundled model needs this for a first bundle and a test on a few hundred short rows."""
_LEAST_ROWS, _LEAST_WORDS, _LEAST_DEPTH = 200, 32, 1 / 3
"""Rows that are kept if there are more, words that a row counts at most, and the minimum share of layers that run."""


def check_time(budget: Budget) -> None:
    """Refuse a time budget that is too small for saving and the report.

    Raises:
        BudgetError: it is too small.
    """
    closing = closing_cost(budget)
    if budget.kind == "time" and budget.amount <= closing:
        raise _refused(budget, f"saving and the report alone need {closing:.0f} s")


def check_tokens(budget: Budget, task: Task) -> None:
    """Refuse a token budget for label tasks that is too small to read each row once by a third of the layers.

    A word has at least one token, and every row is read at least once: labelled rows in the race, the others in the test.

    Raises:
        BudgetError: the budget is too small.
    """
    if budget.kind != "tokens" or task.output.kind.written:
        return
    labelled = (*task.train, *task.dev)
    words = sum(min(_LEAST_WORDS, len(row.text.split())) for row in labelled) / len(labelled)
    rows = min(len(labelled), _LEAST_ROWS) + min(task.test.n, _LEAST_ROWS)
    least = _LEAST_DEPTH * words * rows
    if budget.amount < least:
        raise _refused(budget, f"reading {rows} rows once takes at least {least:,.0f} tokens")


def _refused(budget: Budget, why: str) -> BudgetError:
    sensible = SENSIBLE[budget.kind]
    return BudgetError(
        f"the budget is too small: {why}, and it is {budget}",
        hint=f"Give --budget {sensible} or more; a run of the bundled model needs about that.",
    )
