"""Numbers of rows and tokens that a search asks: in its first race, and at the end of a search without tuning."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answer_search.heuristics import HEURISTICS, RaceBounds
from cotune.cycle.answer_search.race import FINAL, race_rows_scored
from cotune.cycle.search.measured import CALIBRATION_ROWS
from cotune.task.task import Task


def first_race(bounds: RaceBounds, most_pool: int, dev: int, affordable: float) -> tuple[int, int]:
    """Number of prompts and of dev rows of a first race that scores at most ``affordable`` rows, or of the smallest race.

    Args:
        bounds: the smallest race, and what is left out first.
        most_pool: maximum number of prompts.
        dev: number of dev rows.
        affordable: number of row scores that the budget has room for.
    """
    pool, rows, least = most_pool, min(dev, HEURISTICS.most_race_rows), HEURISTICS.least_race_rows
    while race_rows_scored(pool, rows) > affordable and (rows > least or pool > bounds.least_pool):
        if rows > least and (rows > bounds.rows_first or pool <= bounds.pool_last):
            rows = max(least, int(rows * HEURISTICS.fewer_rows))
        else:
            pool -= 1
    return pool, rows


def untuned_end_tokens(task: Task, arms: float, seed: float, finalists: Sequence[float], *, calibrates: bool = True) -> float:
    """Number of tokens that the end of an untuned search asks: two arms on the test, the seed prompt and finalists on dev.

    Args:
        task: the task.
        arms: tokens of a row of the seed prompt and of the longest prompt that may win, together.
        seed: tokens of a row of the seed prompt; 0 if it was measured on dev.
        finalists: tokens of a row of each prompt that may be a finalist and was not measured on dev; the longest count.
        calibrates: whether a bias is estimated for each finalist.
    """
    calibration = min(CALIBRATION_ROWS, len(task.train)) if calibrates else 0
    longest = sorted(finalists, reverse=True)[:FINAL]
    tokens = task.test.n * arms + len(task.dev) * seed + (len(task.dev) + calibration) * sum(longest)
    return HEURISTICS.untuned_end_care * tokens


def least_rows(task: Task) -> float:
    """Number of rows that the smallest untuned search asks, including its end."""
    bounds = HEURISTICS.untuned_race
    return untuned_end_tokens(task, 2, 1, [1] * FINAL) + race_rows_scored(
        bounds.least_pool, min(len(task.dev), HEURISTICS.least_race_rows)
    )
