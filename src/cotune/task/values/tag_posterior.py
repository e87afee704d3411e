"""Probabilities of copied values, given the log-probabilities of each word's tags.

The tags of a text are a chain in which a further word follows a word of the same part. An allowed path of tags has a
probability in proportion to the exponential of its score, see :class:`cotune.task.values.chain.Chain`. The forward algorithm
sums these over all paths, and over those where given words, and no others, are the values of a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.chain import Chain

Floats = NDArray[np.float64]
Spans = Mapping[int, Sequence[tuple[int, int]]]
"""First and last word of each part's values; parts count from 1."""

_FIRST, _FURTHER = 1, 2
_LEAST = -300.0
"""Lowest log-probability of a word's tag that is told from others, so that no sum over all paths becomes zero."""


def posteriors(tables: Sequence[Floats], spans: Sequence[Spans], chain: Chain) -> tuple[Floats, Floats]:
    """Probabilities that exactly these words are values.

    Args:
        tables: ``[words, 1 + parts + 2]`` log-probabilities of each row.
        spans: each row's values; if those of two parts share a word, they cannot all be right.
        chain: how tags follow each other.

    Returns:
        ``[rows, parts]`` for each part, whatever words the others have; ``[rows]`` for all parts together.
    """
    lengths, parts = np.array([len(table) for table in tables], dtype=np.int64), chain.parts
    follows = np.exp(chain.follows)
    most, rows, numbers = int(lengths.max(initial=0)), len(tables), np.arange(parts)
    weights = np.ones((most, rows, 1, 1 + 2 * parts))
    given = np.zeros((most, rows, parts), dtype=np.int8)
    for row, (table, own) in enumerate(zip(tables, spans, strict=True)):
        weights[: len(table), row, 0] = _weights(table, chain)
        for part, places in own.items():
            for first, last in places:
                given[first, row, part - 1], given[first + 1 : last + 1, row, part - 1] = _FIRST, _FURTHER
    # Three kinds of sums: the values of each part are given, those of all parts, none.
    sums, reached = np.zeros((rows, parts + 2)), np.zeros((rows, parts + 2, 1 + 2 * parts))
    reached[..., 0] = 1.0
    allowed = np.ones_like(reached, dtype=np.bool_)
    for step in range(most):
        first, further = given[step] == _FIRST, given[step] == _FURTHER
        outside = ~(first | further)
        allowed[:, :parts] = outside[..., None]
        allowed[:, numbers, 1 + numbers], allowed[:, numbers, 1 + parts + numbers] = first, further
        one = (~outside).sum(axis=1, keepdims=True) <= 1
        allowed[:, parts] = np.concatenate([outside.all(axis=1, keepdims=True), first, further], axis=1) & one
        within = reached[..., 1 : 1 + parts] + reached[..., 1 + parts :]
        before = np.concatenate([reached[..., :1], within], axis=-1) @ follows
        reached = np.where(allowed, np.concatenate([before, within], axis=-1) * weights[step], 0.0)
        total = reached.sum(axis=-1)
        with np.errstate(divide="ignore"):
            sums += np.where(step < lengths[:, None], np.log(total), 0.0)
        reached /= np.where(total > 0, total, 1.0)[..., None]
    # Rounding may bring a certain one above 1.
    found = np.minimum(np.exp(sums[:, :-1] - sums[:, -1:]), 1.0)
    return found[:, :-1], found[:, -1]


def _weights(table: Floats, chain: Chain) -> Floats:
    """``[words, 1 + 2 * parts]`` probabilities of no part, first and further words, as multiples of a word's likeliest."""
    scores = np.concatenate(chain.scores(table), axis=1)
    found: Floats = np.exp(np.maximum(scores - scores.max(axis=1, keepdims=True), _LEAST))
    return found
