"""Sets of labels that hold the right one with a share that is asked for: split conformal prediction.

The score of a row is minus the log-probability of a label. Of ``n`` rows that the model did not learn from, with their right
labels' scores, the threshold for a share ``a`` of errors is the ``ceil((n + 1) (1 - a))``-th smallest score, and a new row's
set holds every label whose score is no higher. This is the score of least ambiguous sets (Sadinle, Lei and Wasserman, JASA
2019, ``LAC`` in MAPIE), on the log scale, which gives the same sets and keeps its digits where probabilities are near one.

**What is guaranteed** (Vovk, Gammerman and Shafer, 2005; Lei et al., JASA 2018): if the ``n`` rows and a new one are
exchangeable, the set holds the right label with probability at least ``1 - a``, over all of them. It is no promise for a single
label, a kind of row, or rows that come from elsewhere than the ``n`` did. The likeliest label is always in the set here, so
that none is empty; that can only add right labels. A row whose set has one label is answered by it. So of all rows, at most a
share ``a`` is answered wrongly, while the others are answered rightly or left open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def conformal_scores(log_probs: Floats, truth: NDArray[np.int64]) -> Floats:
    """Scores of rows' right labels.

    Args:
        log_probs: ``[rows, labels]``, by a model that has not learnt from the rows.
        truth: ``[rows]`` number of the right label.
    """
    found: Floats = -log_probs[np.arange(len(truth)), truth]
    return found


def least_rows(share: float) -> int:
    """Rows that a threshold for a share of errors needs at least."""
    return math.ceil(1 / share - 1e-9) - 1


def threshold(scores: Floats, share: float) -> float:
    """The highest score of a label that is in a set; infinite where there are fewer scores than :func:`least_rows`.

    Args:
        scores: of :func:`conformal_scores`.
        share: of sets that may lack the right label, between 0 and 1.
    """
    # In binary, 20 * 0.95 may come out above 19.
    rank = math.ceil((len(scores) + 1) * (1 - share) - 1e-9)
    return math.inf if rank > len(scores) else float(np.sort(scores)[max(rank, 1) - 1])


def label_sets(log_probs: Floats, highest: float) -> NDArray[np.bool_]:
    """``[rows, labels]`` whether a label is in a row's set; the likeliest one always is.

    Args:
        log_probs: ``[rows, labels]``.
        highest: of :func:`threshold`.
    """
    found: NDArray[np.bool_] = -log_probs <= highest
    found[np.arange(len(log_probs)), log_probs.argmax(axis=1)] = True
    return found


@dataclass(frozen=True)
class Coverage:
    """How sets did on rows whose labels are known.

    Attributes:
        covered: share of rows whose set holds the right label.
        answered: share of rows whose set has one label.
        wrong: share of all rows that were answered, and wrongly.
        size: mean number of labels in a set.
        by_label: ``covered`` of the rows of each label that occurs, by its number.
    """

    covered: float
    answered: float
    wrong: float
    size: float
    by_label: dict[int, float]


def coverage(sets: NDArray[np.bool_], truth: NDArray[np.int64]) -> Coverage:
    """Judge the sets of rows.

    Args:
        sets: ``[rows, labels]``.
        truth: ``[rows]`` number of the right label.
    """
    sizes, inside = sets.sum(axis=1), sets[np.arange(len(truth)), truth]
    by_label = {int(label): float(inside[truth == label].mean()) for label in np.unique(truth)}
    single = sizes == 1
    return Coverage(float(inside.mean()), float(single.mean()), float((single & ~inside).mean()), float(sizes.mean()), by_label)
