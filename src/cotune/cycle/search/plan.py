"""What fits into a budget: how large the pool, how many entrants, how many steps. Printed before the run starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cotune.cycle.search.trial import decay_steps
from cotune.errors import BudgetError
from cotune.evaluate.stats.racing import schedule_cost, successive_halving_schedule

Aside = Literal["all", "heads", "least"]

FINAL = 3
"""Prompts that see all rows of a race."""
SHORT = 0.2
"""Length of an entrant's short run, as a share of the winner's whole one."""
EPOCHS = 4
"""Times that the winner should meet its rows before more prompts are raced or tuned: up to there each further step gained
something on rows that no run had seen."""
ENOUGH = 180
"""Steps after which it need not have met them so often: as many as that was seen with, and many rows need not be met at all."""
_HALF = 0.5
"""Of what is left of the budget when it is planned, that training should get where answers are written."""
_LEAST_TEST = 30
"""Test rows below which none are advised."""
_RACE_SHARES = (0.12, 0.06)
"""Of what the end leaves of the budget: for the first race, and for it where training runs short."""


@dataclass(frozen=True)
class Sizes:
    """Facts that a plan rests on.

    Attributes:
        train: rows; ``dev`` and ``test`` too.
        own: tokens of a scored row behind the shared prefix.
        step_tokens: tokens of an optimizer step.
        steps_per_epoch: optimizer steps in which each train row is met once.
        late: whether answers are written, those to dev by finalists alone.
    """

    train: int
    dev: int
    test: int
    own: float
    step_tokens: float
    steps_per_epoch: int
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """The first cycle in numbers, and what is put aside for the end.

    Attributes:
        pool: prompts that are scored.
        race_rows: dev rows of the longest race.
        entrants: prompts that are tuned.
        short_steps: optimizer steps of each entrant's short run.
        target_steps: steps that the winner and the seed prompt reach in all, decay included, if nothing intervenes.
        reserve: budget for confirming, the test and the report, in the budget's unit, by what is known at the start; what the
            end costs is counted anew as more is known.
        fixed: what of it is for the report and for saving.
        aside: what the reserve holds beside what a run cannot do without: classification heads and all that is measured after
            the test, heads alone, or nothing.
        nearest: whether pools hold a prompt that shows each row its nearest demonstrations.
        training: share of the budget that goes into steps.
        advice: what would give steps half of it, where they get less; empty where they do not.
        race: cost of the first race, in the budget's unit, at the rates known at the start.
        tuning: that of the steps and of measuring what they gave.
    """

    pool: int
    race_rows: int
    entrants: int
    short_steps: int
    target_steps: int
    reserve: float
    fixed: float = 0.0
    aside: Aside = "all"
    nearest: bool = False
    training: float = 0.0
    advice: str = ""
    race: float = 0.0
    tuning: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(self).items()}


def make_plan(
    left: float,
    sizes: Sizes,
    *,
    reserve: float,
    test_row: float,
    scoring: Callable[[float], float],
    training: Callable[[float], float],
    max_pool: int,
    max_entrants: int,
    max_epochs: int,
    decay: float,
    raised: Callable[[float], str] = "{:.0f} more".format,
    unit: str = "",
) -> Plan:
    """Fit a run into what is left of the budget.

    Training gets about four fifths of what the end leaves; each entrant's short run is about a fifth of the winner's.

    Args:
        left: budget, in its unit.
        sizes: of the task.
        reserve: budget that the end takes, in its unit.
        test_row: what of it a test row takes.
        scoring: cost of scoring so many tokens.
        training: cost of training on so many tokens.
        max_pool: prompts at most.
        max_entrants: tuned prompts at most.
        max_epochs: epochs of the winner's run at most.
        decay: share of a finished run in which the learning rate falls.
        raised: the budget with so much more, as a command would name it.
        unit: of the budget, as messages name it.

    Raises:
        BudgetError: not even one short run fits.
    """
    row = scoring(sizes.own)
    usable = left - reserve
    step = training(sizes.step_tokens)
    check = sizes.dev * row
    least = 2 * 4 * step + 4 * check
    if usable < least:
        blank = f" {unit}" if unit else ""
        raise BudgetError(
            f"the budget is too small: scoring the test rows and one short tuning run need about {reserve + least:.0f}{blank}, "
            f"and {max(0.0, left):.0f}{blank} are left",
            hint=f"Give {_remedies(least - usable, sizes.test, test_row, raised)}.",
        )
    limit = max(8, max_epochs * sizes.steps_per_epoch)
    # What prompts are worth before tuning says little about after, so the first race is kept short; where the rows cannot be
    # met often enough even so, it is kept shorter and fewer prompts are tuned, since steps are what tuning gains from at first.
    wanted = min(limit, max(40, min(EPOCHS * sizes.steps_per_epoch, ENOUGH)))
    for share in _RACE_SHARES:
        pool, race_rows = _fit_race(max_pool, sizes.dev, share * usable / row)
        rest = usable - race_rows_scored(pool, race_rows) * row
        entrants, target = _fit_tuning(max_entrants, rest, step, check, wanted)
        trained = max(0.0, rest - (entrants + 3) * check) / left
        if target >= wanted and (trained >= _HALF or not sizes.late):
            break
    target = max(6, min(target, limit))
    steady = target - decay_steps(int(target * (1 - decay)), decay)
    short = max(3, min(round(SHORT * target), steady))
    plan = Plan(pool, race_rows, entrants, short, target, reserve)
    # More steps than max_epochs allows for are none that anything else took away.
    lacking = (_HALF - trained) * left if sizes.late and target < limit else 0.0
    # Of a longer budget about a tenth goes into races and checks, and of the rest half is what is asked for.
    advice = _remedies(lacking, sizes.test, test_row, raised, longer=1 / (0.9 - _HALF)) if lacking > 0 else ""
    steps = entrants * short + 2 * max(0, target - short)
    race, tuning = race_rows_scored(pool, race_rows) * row, steps * step + (entrants + 3) * check
    return replace(plan, training=trained, advice=advice, race=race, tuning=tuning)


def _remedies(lacking: float, test: int, test_row: float, raised: Callable[[float], str], *, longer: float = 1.1) -> str:
    """What would make room for what is lacking: a longer budget, by so many times as much, or fewer test rows."""
    rows = int(test - 1.1 * lacking / test_row) if test_row > 0 else 0
    rows -= rows % 10
    budget = f"--budget {raised(longer * lacking)}"
    return f"{budget}, or limit.test={rows}" if _LEAST_TEST <= rows < test else budget


def _fit_race(max_pool: int, dev: int, affordable: float) -> tuple[int, int]:
    """Prompts and dev rows of a first race of so many scored rows; at least six prompts and 32 rows."""
    rows, pool = min(dev, 128), max_pool
    while race_rows_scored(pool, rows) > affordable and (rows > 32 or pool > 6):
        if rows > 48 or pool <= 12:
            rows = max(32, int(rows * 0.85)) if rows > 32 else rows
            pool -= rows <= 32
        else:
            pool -= 1
    return pool, rows


def _fit_tuning(max_entrants: int, rest: float, step: float, check: float, wanted: int) -> tuple[int, int]:
    """Entrants, and steps of the whole run: entrants' short runs at a fifth each, then the winner and the seed to the end.

    Entrants are given up, down to the seed prompt and one more, where ``wanted`` steps do not fit. A check on dev comes after
    each stretch.
    """
    entrants = max_entrants
    while True:
        target = int((rest - (entrants + 3) * check) / (whole_runs(entrants) * step))
        if target >= wanted or entrants <= 2:
            return entrants, target
        entrants -= 1


def whole_runs(entrants: int) -> float:
    """How many whole runs' steps tuning takes: entrants' short ones, then the winner and the seed prompt go on to the end."""
    return SHORT * entrants + 2 * (1 - SHORT)


def race_rows_scored(pool: int, rows: int) -> int:
    """How many rows a race of so many prompts over so many rows scores in all, at most."""
    return schedule_cost(pool, successive_halving_schedule(pool, rows, final=FINAL))
