"""Metrics of JSON answers by field. The units are single values with their paths."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cotune.task.answered import Answered, Floats
from cotune.task.values.json_value import NO_JSON, Leaf, json_in, leaf_counts
from cotune.task.values.schema import Validator, schema_fields


def field_counts(answered: Answered) -> Floats:
    """Counts ``[rows, 3]`` of matching values, right values, and answered values.

    An answer that is not JSON counts as one wrong value, otherwise it would be free for a row without right values.
    """
    return np.array([_counts(*values) for values in _values(answered)], dtype=np.float64)


def row_f1(answered: Answered) -> Floats:
    """F1 of each row's values, ``[rows]``; 1 if both sides are empty."""
    return micro_f1(field_counts(answered))


def micro_f1(sums: Floats) -> Floats:
    """F1 over all values of all rows, from sums of :func:`field_counts`; 1 if both sides are empty."""
    hits, support, answered = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _share(2 * hits, support + answered)


def micro_precision(sums: Floats) -> Floats:
    """Share of answered values that are right; 1 without any."""
    hits, _, answered = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _share(hits, answered)


def micro_recall(sums: Floats) -> Floats:
    """Share of right values that were answered; 1 without any."""
    hits, support, _ = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _share(hits, support)


def fields_of(answered: Answered) -> list[str]:
    """The scored fields: those of the schema, then those of the right answers. Answers add none."""
    named = schema_fields(answered.output.schema or {})
    seen = {path for reference, _ in _values(answered) for path, _ in leaf_counts(reference)}
    return [*named, *sorted(seen - set(named))]


def counts_by_field(answered: Answered) -> Floats:
    """Counts ``[rows, 3 fields]``: matching, right and answered values of each of :func:`fields_of`."""
    place = {field: i for i, field in enumerate(fields_of(answered))}
    table = np.zeros((len(answered.references), 3, len(place)))
    for row, (reference, answer) in enumerate(_values(answered)):
        right, given = leaf_counts(reference), leaf_counts(answer)
        for kind, counted in enumerate((right & given, right, given)):
            for (path, _), count in counted.items():
                if path in place:
                    table[row, kind, place[path]] += count
    return table.reshape(len(answered.references), -1)


def field_f1(sums: Floats) -> Floats:
    """Mean of the fields' F1 from sums of :func:`counts_by_field`; fields without any value are left out."""
    hits, support, answered = np.split(np.asarray(sums, dtype=np.float64), 3, axis=-1)
    seen = (support + answered) > 0
    scores = np.where(seen, 2 * hits / np.where(seen, support + answered, 1.0), 0.0)
    return _share(scores.sum(axis=-1), seen.sum(axis=-1).astype(np.float64))


def part_accuracy(answered: Answered) -> Floats:
    """Mean over an answer's top-level keys of the share of right values in each, ``[rows]``.

    A key with an object of ten flags counts as much as one with a single word. Keys that only the answer has count as wrong.
    """
    scores = []
    for reference, answer in _values(answered):
        right, given = _parts(reference), _parts(answer)
        if answer is NO_JSON or not (right or given):
            scores.append(float(answer is not NO_JSON))
            continue
        shares = []
        for name in {**right, **given}:
            here, there = right.get(name, Counter()), given.get(name, Counter())
            both = here.total() + there.total()
            shares.append(2 * (here & there).total() / both if both else float(name in right and name in given))
        scores.append(sum(shares) / len(shares))
    return np.array(scores, dtype=np.float64)


def valid(answered: Answered) -> Floats:
    """1 for answers that are JSON and fit the schema, ``[rows]``."""
    check = Validator(answered.output.schema or {})
    return np.array([float(a is not NO_JSON and check(a)) for _, a in _values(answered)], dtype=np.float64)


def _values(answered: Answered) -> list[tuple[Any, Any]]:
    return [(json_in(g), json_in(a)) for g, a in zip(answered.references, answered.answers, strict=True)]


def _counts(reference: Any, answer: Any) -> tuple[int, int, int]:
    right, answered = leaf_counts(reference), leaf_counts(answer)
    return (right & answered).total(), right.total(), 1 if answer is NO_JSON else answered.total()


def _parts(value: Any) -> dict[str, Counter[Leaf]]:
    if isinstance(value, dict):
        return {str(name): leaf_counts(inner) for name, inner in value.items()}
    return {} if value is NO_JSON else {"": leaf_counts(value)}


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 1.0), dtype=np.float64)
