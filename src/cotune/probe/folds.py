"""Cross-validation folds, stratified by label, that keep groups together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fold_numbers(
    labels: Sequence[int] | NDArray[np.int64],
    folds: int,
    *,
    groups: Sequence[object] | NDArray[np.str_] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Assign each row to a fold; returns ``[rows]`` numbers from 0 to ``folds - 1``.

    Without groups, the rows of each label are dealt out in turn, each label starting where the previous one ended, so that fold
    sizes differ by at most one row, overall and per label. With groups, whole groups are dealt out, the largest first, each to
    the fold that then has the smallest excess of its labels.

    Args:
        labels: the label of each row, as a number.
        folds: number of folds, at least 2 and at most the number of rows or groups.
        groups: group of each row; rows of one group share a fold. None treats rows as independent.
        seed: seed of the assignment.

    Raises:
        ValueError: there are fewer rows or groups than folds, or fewer than 2 folds.
    """
    y = np.asarray(labels, dtype=np.int64)
    units = len(y) if groups is None else len(set(map(str, groups)))
    if not 2 <= folds <= units:
        raise ValueError(f"{units} rows or groups cannot be put into {folds} folds")
    rng = np.random.default_rng([seed, 11])
    if groups is None:
        order = rng.permutation(len(y))
        order = order[np.argsort(y[order], kind="stable")]
        assigned = np.empty(len(y), dtype=np.int64)
        assigned[order] = np.arange(len(y)) % folds
        return assigned
    names, member = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    counts = np.zeros((len(names), int(y.max()) + 1))
    np.add.at(counts, (member, y), 1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    share = np.maximum(counts.sum(axis=0) / folds, 1e-9)
    filled, fold_of = np.zeros((folds, counts.shape[1])), np.empty(len(names), dtype=np.int64)
    for place, group in enumerate(order):
        # Between folds that are equally good for the labels, prefer those with fewer groups.
        excess = (((filled + counts[group]) / share) ** 2 - (filled / share) ** 2).sum(axis=1)
        empty = filled.sum(axis=1) == 0
        if len(order) - place <= int(empty.sum()):
            excess = np.where(empty, excess, np.inf)
        fold_of[group] = int(np.argmin(excess))
        filled[fold_of[group]] += counts[group]
    return fold_of[member]
