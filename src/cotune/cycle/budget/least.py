"""Budgets that no run could keep, refused before the model is loaded; the exact check follows once rows have a price."""

from __future__ import annotations

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.reserve import closing_cost
from cotune.errors import BudgetError
from cotune.task.task import Task

SENSIBLE = {"time": "60s", "tokens": "50ktok"}
"""The least that is advised: what the bundled model needs for a first bundle and a test, of a few hundred short rows."""
_LEAST_ROWS, _LEAST_WORDS, _LEAST_DEPTH = 200, 32, 1 / 3
"""Of more rows some are drawn, longer ones may be cut to the model's context, and layers above a third are not run."""


def check_time(budget: Budget) -> None:
    """Refuse a time budget that not even saving and the report fit into.

    Raises:
        BudgetError: it does not.
    """
    closing = closing_cost(budget)
    if budget.kind == "time" and budget.amount <= closing:
        raise _refused(budget, f"saving and the report alone are given {closing:.0f} s")


def check_tokens(budget: Budget, task: Task) -> None:
    """Refuse a token budget that the labels' rows do not fit into, each read once by a third of the layers.

    A word has a token at least, and every row is read once in all: labelled ones in the race, the others in the test.

    Raises:
        BudgetError: they do not.
    """
    if budget.kind != "tokens" or task.output.kind.written:
        return
    labelled = (*task.train, *task.dev)
    words = sum(min(_LEAST_WORDS, len(row.text.split())) for row in labelled) / len(labelled)
    rows = min(len(labelled), _LEAST_ROWS) + min(task.test.n, _LEAST_ROWS)
    least = _LEAST_DEPTH * words * rows
    if budget.amount < least:
        raise _refused(budget, f"reading {rows} rows once takes {least:,.0f} tokens at least")


def _refused(budget: Budget, why: str) -> BudgetError:
    sensible = SENSIBLE[budget.kind]
    return BudgetError(
        f"the budget is too small: {why}, and it is {budget}",
        hint=f"Give --budget {sensible} or more; a run of the bundled model needs about that.",
    )
