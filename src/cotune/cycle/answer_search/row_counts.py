"""Numbers of rows that a search asks: in its first race, and at the end of a search without tuning."""

from __future__ import annotations

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


def untuned_end_rows(task: Task) -> float:
    """Number of rows that the end of an untuned search asks: two arms on the test, and the last race's finalists on dev."""
    calibration = min(CALIBRATION_ROWS, len(task.train))
    return HEURISTICS.untuned_end_care * (2 * task.test.n + (FINAL + 1) * len(task.dev) + FINAL * calibration)


def least_rows(task: Task) -> float:
    """Number of rows that the smallest untuned search asks, including its end."""
    bounds = HEURISTICS.untuned_race
    return untuned_end_rows(task) + race_rows_scored(bounds.least_pool, min(len(task.dev), HEURISTICS.least_race_rows))
