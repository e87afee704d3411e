"""Read-outs with several fields: the classes of all fields in a row, with a distribution over those of each field.

``sizes`` are the fields' numbers of classes; empty, all classes are those of one field, as the labels of a label task are.
Right classes are ``[rows]`` numbers for one field, and ``[rows, fields]`` places among all classes for several. If several
states are read of each row, a place of -1 says that a field is not read off a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_LOGITS = 20_000_000
"""Upper bound on the logits of regressions that are fitted at once: a few hundred megabytes including the solver's memory."""


def spans(sizes: Sequence[int], classes: int) -> list[slice]:
    """The places of each field's classes."""
    ends = list(accumulate(sizes or (classes,)))
    return [slice(start, end) for start, end in zip((0, *ends), ends, strict=False)]


def log_softmax_by_field(logits: NDArray[Any], sizes: Sequence[int]) -> Floats:
    """Log-probabilities of the classes along the last axis, by field."""
    from scipy.special import log_softmax

    parts = [log_softmax(logits[..., span].astype(np.float64), axis=-1) for span in spans(sizes, logits.shape[-1])]
    found: Floats = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return found


def row_losses(log_probs: Floats, truth: NDArray[np.int64]) -> Floats:
    """``[rows]`` log-loss of ``[rows, classes]`` in nats, the mean over the fields."""
    places = truth.reshape(len(truth), -1)
    read = places >= 0
    own = np.take_along_axis(log_probs, np.where(read, places, 0), axis=1)
    found: Floats = -np.where(read, own, 0.0).sum(axis=1) / read.sum(axis=1)
    return found


def likeliest(log_probs: Floats, sizes: Sequence[int]) -> NDArray[np.int64]:
    """``[rows, fields]`` places of each field's likeliest class among all classes; the first of equals."""
    found = [log_probs[:, span].argmax(axis=1) + span.start for span in spans(sizes, log_probs.shape[1])]
    return np.stack(found, axis=1)


def row_correct(log_probs: Floats, truth: NDArray[np.int64], sizes: Sequence[int]) -> Floats:
    """``[rows]`` share of the fields whose likeliest class is right."""
    places = truth.reshape(len(truth), -1)
    found: Floats = (likeliest(log_probs, sizes) == places).sum(axis=1) / (places >= 0).sum(axis=1)
    return found


def by_row(values: Floats, owners: NDArray[np.int64] | None) -> Floats:
    """``[rows]`` means of ``[states]`` values, given the row of each state; None if each row has one state."""
    return values if owners is None else np.bincount(owners, values) / np.bincount(owners)


def strata_of(truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[rows]`` strata for folds: the classes of one field, and a single stratum for several."""
    return truth if truth.ndim == 1 else np.zeros(len(truth), dtype=np.int64)


def by_field(truth: NDArray[np.int64], sizes: Sequence[int], classes: int) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """The places of each field's classes, and ``[rows]`` the right one's number within the field; -1 if it is not read."""
    for column, span in zip(truth.reshape(len(truth), -1).T, spans(sizes, classes), strict=True):
        yield span, np.where(column < 0, -1, column - span.start)


def alike(
    truth: NDArray[np.int64], sizes: Sequence[int], classes: int, problems: int = 1
) -> Iterator[tuple[tuple[slice, ...], NDArray[np.int64]]]:
    """The fields of :func:`by_field` to fit at once: those with as many classes that are read off the same rows.

    ``problems`` is the number of regressions for each field; together they have at most :data:`MOST_LOGITS` logits. Yields the
    places of each field's classes, and ``[fields, rows]`` the right ones' numbers within them.
    """
    groups: dict[tuple[int, bytes], list[tuple[slice, NDArray[np.int64]]]] = {}
    for span, own in by_field(truth, sizes, classes):
        groups.setdefault((span.stop - span.start, (own >= 0).tobytes()), []).append((span, own))
    for (size, _), group in groups.items():
        at_once = max(1, MOST_LOGITS // (problems * len(truth) * size))
        for first in range(0, len(group), at_once):
            part = group[first : first + at_once]
            yield tuple(span for span, _ in part), np.stack([own for _, own in part])
