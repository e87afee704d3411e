"""Simulated test rows: alone, or in groups whose rows are alike; and the F1 of answers that are numbers of labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS, Aggregate
from cotune.task.values.output import label_output

Floats = NDArray[np.float64]

ALONE = {30: (30, 1), 100: (100, 1), 500: (500, 1)}
GROUPED = {(30, 5): (6, 5), (100, 5): (20, 5), (500, 5): (100, 5), (50, 25): (2, 25), (100, 25): (4, 25), (500, 25): (20, 25)}
"""Rows and rows a group to groups and rows a group; 30 rows hold a single group of 25, so two stand for them."""
STRONG = (0.5, 0.9, 1.0)
"""How alike rows of a group are; at 1 they are the same row."""


def f1_metric(name: str) -> Aggregate:
    """``macro_f1`` or ``weighted_f1``, as a run uses it."""
    found = METRICS[name].aggregate
    assert found is not None
    return found


def f1_counts(gold: NDArray[np.int64], given: NDArray[np.int64], labels: int = 4) -> Floats:
    """Counts of the rows for both F1."""
    right, answers = ([str(label) for label in column.tolist()] for column in (gold, given))
    return f1_metric("macro_f1").counts(Answered(right, answers, label_output(tuple(map(str, range(labels))))))


def ids_of(groups: int, size: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(groups), size)


def margins(
    generator: np.random.Generator, shares: Floats, samples: int, groups: int, size: int, alike: float, shared: float = 0.5
) -> Floats:
    """Margins by which arms are right, shape (samples, arms, rows): positive with probability ``shares``.

    Groups and rows have a difficulty that all arms share, and one for each arm alone, so that differences of arms are alike
    within groups too.
    """

    def noise(places: int) -> Floats:
        own = generator.normal(size=(samples, len(shares), places))
        return np.asarray(np.sqrt(shared) * generator.normal(size=(samples, 1, places)) + np.sqrt(1 - shared) * own)

    by_group = np.sqrt(alike) * noise(groups).repeat(size, axis=-1) if alike else 0.0
    by_row = np.sqrt(1 - alike) * noise(groups * size) if alike < 1 else 0.0
    return np.asarray(special.ndtri(shares)[:, None] + by_group + by_row)
