"""Fits of term weights to labelled texts: many sets of rows share one pass over the texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.probe.fields import alike, log_softmax_by_field, strata_of
from cotune.probe.folds import fold_numbers
from cotune.probe.logistic import Axes, fit_logistic
from cotune.probe.terms import TermWeights, features, term_counts

Floats = NDArray[np.float64]

STRENGTH = 10.0
"""Inverse of the penalty; scikit-learn's default of 1 is too small for rows of unit length with hundreds of terms."""
_MOST_WEIGHTS = 2**23
"""Maximum number of weights, 16 MiB in half precision; with many terms and labels, terms share hashes."""
_MOST_SIZE = 2**16
"""Maximum number of hashes of a group. On 64 to 1,500 rows of five sets, 2**15 to 2**18 and no hashing differ by chance."""
_LEAST_SIZE = 2**8
_TOLERANCE = 3e-4


class TermFits:
    """TF-IDF of some labelled texts, and logistic regressions on any part of them.

    Frequencies of terms come from all texts, which uses no label. A regression with an L2 penalty depends only on products of
    rows, so each fit has as many dimensions as there are rows.

    Args:
        texts: the texts, at least one; the time grows with the third power of their number, a few seconds for 3,000.
        labels: ``[rows]`` label indices; with several fields, ``[rows, fields]`` places among the classes of all fields.
        classes: number of labels.
        sizes: number of classes of each of several fields; empty for one.
    """

    def __init__(self, texts: Sequence[str], labels: NDArray[np.int64], classes: int, sizes: Sequence[int] = ()) -> None:
        from scipy.sparse import csr_matrix

        self._labels, self._classes, self._sizes = labels, classes, tuple(sizes)
        self._size = _MOST_SIZE
        while True:
            counted = [term_counts(text, self._size) for text in texts]
            self._known, frequencies = np.unique(np.concatenate([buckets for buckets, _ in counted]), return_counts=True)
            if len(self._known) * classes <= _MOST_WEIGHTS or self._size == _LEAST_SIZE:
                break
            self._size //= 2
        self._idf = (np.log((1 + len(texts)) / (1 + frequencies)) + 1).astype(np.float32)
        parts = [features(each, self._known, self._idf, self._size) for each in counted]
        ends = np.cumsum([0, *(len(places) for places, _ in parts)])
        places, values = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        self._matrix = csr_matrix((values, places, ends), shape=(len(texts), len(self._known)))

    @cached_property
    def _axes(self) -> Axes:
        return Axes.of_products((self._matrix @ self._matrix.T).toarray())

    @property
    def empty(self) -> bool:
        """Whether no text has a term."""
        return not len(self._known)

    def fit(self, rows: NDArray[np.bool_], fields: tuple[str, ...]) -> TermWeights:
        """The classifier that is fitted to some of the rows; if none, all logits are 0.

        ``fields`` are the names of the fields that the texts are made of.
        """
        weight, bias = np.zeros((len(self._known), self._classes)), np.zeros(self._classes)
        if rows.any():
            axes, fitted = self._axes, self._fitted(rows[None])
            weight, bias = self._matrix.T @ ((axes.left / axes.scale).numpy() @ fitted[0][0].T), fitted[1][0]
        known = self._known.astype(np.uint32)
        return TermWeights(known, self._idf, weight.astype(np.float16), bias.astype(np.float32), self._size, fields)

    def cross_fitted(
        self, folds: int = 5, *, groups: Sequence[object] | NDArray[Any] | None = None, seed: int = 0
    ) -> Floats | None:
        """``[rows, classes]`` log-probabilities, each row by a fit that has not seen its label.

        None if there are too few rows, labels or groups, or no text has a term.
        """
        groups = None if groups is None else list(groups)
        units = len(self._labels) if groups is None else len(set(map(str, groups)))
        if units < 2 or self.empty:
            return None
        folds = min(folds, units)
        fold_of = fold_numbers(strata_of(self._labels), folds, groups=groups, seed=seed)
        if any(len(np.unique(self._labels[fold_of != fold], axis=0)) < 2 for fold in range(folds)):
            return None
        weight, bias = self._fitted(fold_of[None] != np.arange(folds)[:, None])
        logits = np.einsum("nd,fkd->fnk", self._axes.z.numpy(), weight) + bias[:, None]
        return log_softmax_by_field(logits[fold_of, np.arange(len(fold_of))], self._sizes)

    def _fitted(self, masks: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        weight = np.zeros((len(masks), self._classes, self._axes.z.shape[1]))
        bias = np.zeros((len(masks), self._classes))
        for places, own in alike(self._labels, self._sizes, self._classes, len(masks)):
            size = places[0].stop - places[0].start
            # Two classes have two rows of weights here and one in scikit-learn, which is their difference and has half the
            # penalty.
            strength = STRENGTH / 2 if size == 2 else STRENGTH
            found = fit_logistic(self._axes, own, size, strengths=[strength], masks=masks, tolerance=_TOLERANCE)
            for number, span in enumerate(places):
                fits = slice(number * len(masks), (number + 1) * len(masks))
                weight[:, span], bias[:, span] = found.weight[fits], found.bias[fits]
        return weight, bias
