"""The pairs of labels that a probe confuses most."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from cotune.cycle.probe_search.fits import PromptFit
from cotune.evaluate.responses import label_indices
from cotune.task.task import Task


@dataclass(frozen=True)
class ConfusedPair:
    """Two labels that are confused with each other.

    Attributes:
        labels: the labels, in the task's order.
        mass: probability that rows of each label give to the other, summed over rows.
    """

    labels: tuple[str, str]
    mass: float


def confused_pairs(fit: PromptFit, task: Task, rows: Collection[str], most: int) -> list[ConfusedPair]:
    """The pairs of labels that a cross-fitted probe confuses most, the worst first.

    Probabilities are summed instead of wrong answers, because with few rows hardly any pair has more than one wrong answer.

    Args:
        fit: fit with cross-fitted probabilities; no row was predicted by weights that had seen it.
        task: the task, with its labels.
        rows: ids of the rows to use.
        most: maximum number of pairs.
    """
    places = [place for place, row in enumerate(fit.rows) if row.id in rows]
    given = np.exp(fit.found.log_probs[places])
    right = label_indices([fit.rows[place] for place in places], task)
    table = np.zeros((len(task.labels), len(task.labels)))
    np.add.at(table, right, given)
    both = table + table.T
    first, second = np.triu_indices(len(task.labels), k=1)
    order = np.argsort(-both[first, second], kind="stable")[:most]
    return [
        ConfusedPair((task.labels[first[i]], task.labels[second[i]]), round(float(both[first[i], second[i]]), 6)) for i in order
    ]
