"""What must be left of a budget behind a stretch of steps and for closing a run, and what measurements at the end may take."""

from __future__ import annotations

from collections.abc import Callable

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel

_NOISE = 0.95
"""Share of what was reckoned that must be left: its own margins are for the ordinary noise of a machine."""
_UNUSED_SHARE = 0.25
"""Of what a run leaves unused at its end, at most, for one measurement."""
_DOUBT = 12
"""Steps at the expected speed that count along with those that were taken, or two slow ones would end a stretch."""


def spent_to(
    keep: float, costs: CostModel, step_tokens: float, clock: Callable[[], float], *, guess: float = 1.0
) -> Callable[[], bool] | None:
    """What tells after each step whether it has to be the last, so that enough is left for what comes after.

    A machine that others begin to use takes many times as long as it did, for the steps as for all that follows; so what must
    be left grows with the steps' own slowness, as far as there were enough of them to show it. The first step does not count
    there: it may touch memory for the first time.

    Args:
        keep: cost of what follows at the speed that is expected; 0 keeps nothing back.
        costs: that speed, and the budget.
        step_tokens: of a step.
        clock: seconds of the budget that have gone.
        guess: times slower than expected that steps may be without what follows being slower too, where it has been timed
            and the price of a step is still a guess.

    Returns:
        None where nothing has to be asked: other budgets than time are known to the token.
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
    """Of a time budget, what saving and the report take at the end; nothing of another one."""
    return 6.0 + 0.01 * budget.amount if budget.kind == "time" else 0.0


def allowed_at_end(budget: Budget, share: float, left: float) -> float:
    """What a measurement may take once the arms are tested: a share of the budget, or a part of what the run leaves unused."""
    return min(left, max(share * budget.amount, _UNUSED_SHARE * left))


def shortage(budget: Budget, needed: float, allowed: float, left: float | None = None) -> str:
    """Why a measurement is left out: it needs more than is left, or than it may take."""
    needs = f"needs about {budget.told(needed)}"
    if left is None:
        return f"{needs} and may take {budget.told(allowed)}"
    rest = f"{budget.told(max(0.0, left))} left"
    return f"{needs}, {rest}" if needed > left else f"{needs} and may take {budget.told(allowed)} of the {rest}"
