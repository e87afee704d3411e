"""Reserves of a budget: for the time after a tuning, for closing a run, and for measurements at the end."""

from __future__ import annotations

from collections.abc import Callable

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel

_NOISE = 0.95
"""Share of the planned reserve that must be left; its margins are for the ordinary noise of a machine."""
_UNUSED_SHARE = 0.25
"""Maximum share of a run's unused budget for one measurement at the end."""
_DOUBT = 12
"""Number of steps at the expected speed that are averaged with the measured ones; otherwise two slow steps could end a tuning.
"""


def spent_to(
    keep: float, costs: CostModel, step_tokens: float, clock: Callable[[], float], *, guess: float = 1.0
) -> Callable[[], bool] | None:
    """Return a function that tells after each step whether it must be the last one, to leave enough budget.

    If others start to use the machine, the steps and all that follows become slower. So the reserve grows with the measured
    slowness of the steps, as far as there were enough steps. The first step does not count, because it may allocate memory.

    Args:
        keep: cost of what follows, at the expected speed; 0 reserves nothing.
        costs: the expected speed and the budget.
        step_tokens: tokens of a step.
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
