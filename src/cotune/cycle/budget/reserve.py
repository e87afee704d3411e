"""Reserves of a budget for what follows, and refusal of budgets that are far too small, before the model is loaded."""

from __future__ import annotations

from collections.abc import Callable

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.errors import BudgetError
from cotune.task.task import Task

_NOISE = 0.95
"""Share of the planned reserve that must be left; its margins are for the ordinary noise of a machine."""
_UNUSED_SHARE = 0.25
"""Maximum share of a run's unused budget for one measurement at the end."""
_DOUBT = 12
"""Number of steps at the expected speed that are averaged with the measured ones; otherwise two slow steps could end a tuning.
"""
SENSIBLE = {"time": "60s", "tokens": "50ktok"}
"""Advised minimum: the bundled model needs this for a first bundle and a test on a few hundred short rows."""
_LEAST_ROWS, _LEAST_WORDS, _LEAST_DEPTH = 200, 32, 1 / 3
"""Rows that are kept if there are more, words that a row counts at most, and the minimum share of layers that run."""


def spent_to(
    keep: float, costs: CostModel, step_tokens: float, clock: Callable[[], float], *, guess: float = 1.0
) -> Callable[[], bool] | None:
    """Return a function that tells after each step whether it must be the last one, to leave enough budget.

    If others start to use the machine, the steps and all that follows become slower. So the reserve grows with the measured
    slowness of the steps, as far as there were enough steps. The first step does not count, because it may allocate memory.

    Args:
        keep: cost of what follows, at the expected speed; 0 reserves nothing.
        clock: returns the used seconds of the budget.
        guess: slowdown of steps up to which what follows counts as on time, because its price was measured while that of a step
            is still a guess.

    Returns:
        None if there is nothing to check: the cost of steps is known exactly unless the budget is time.
    """
    if keep <= 0 or costs.budget.kind != "time":
        return None
    expected, doubt, asked = costs.training(step_tokens), _DOUBT * costs.training(step_tokens), list[float]()

    def spent() -> bool:
        asked.append(clock())
        slow = (asked[-1] - asked[0] + doubt) / ((len(asked) - 1) * expected + doubt)
        return costs.budget.amount - asked[-1] < _NOISE * keep * max(1.0, slow / guess)

    return spent


def closing_cost(budget: Budget) -> float:
    """Seconds reserved for saving and the report under a time budget; 0 for other budgets."""
    return 4.5 + 0.01 * budget.amount if budget.kind == "time" else 0.0


def allowed_at_end(budget: Budget, share: float, left: float) -> float:
    """Budget of a measurement after the test: a share of the budget, or a part of the unused budget if that is more."""
    return min(left, max(share * budget.amount, _UNUSED_SHARE * left))


def shortage(budget: Budget, needed: float, allowed: float, left: float | None = None) -> str:
    """Message on why a measurement is left out: it needs more than is left, or than its allowance."""
    needs = f"needs about {budget.told(needed)}"
    if left is None:
        return f"{needs} and may take {budget.told(allowed)}"
    rest = f"{budget.told(max(0.0, left))} left"
    return f"{needs}, {rest}" if needed > left else f"{needs} and may take {budget.told(allowed)} of the {rest}"


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
