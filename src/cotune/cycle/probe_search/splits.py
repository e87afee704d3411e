"""Splits of the labelled rows into rows that a trial learns from and held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.probe.folds import fold_numbers
from cotune.task.example import Example, groups_of
from cotune.task.split import count_units, fold_units


@dataclass(frozen=True)
class Split:
    """Rows to learn from, and held-out rows."""

    learn: tuple[Example, ...]
    held: tuple[Example, ...]


def labelled_rows(context: RunContext) -> tuple[Example, ...]:
    """All rows that the user labelled, in a seeded random order; rows of a group are adjacent.

    If dev is so small that none of the first rows is of it, one of its rows, with its group, comes first: a cut race keeps the
    first rows only.
    """
    train = tuple(row for row in context.task.train if not row.taught)
    rows = (*train, *context.task.dev)
    order = np.random.default_rng([context.seed, 12]).permutation(len(rows)).tolist()
    groups = groups_of(rows)
    of = [row.id for row in rows] if groups is None else groups.tolist()
    first: dict[str, int] = {}
    for place, i in enumerate(order):
        first.setdefault(of[i], place)
    order.sort(key=lambda i: first[of[i]])
    place = next((place for place, i in enumerate(order) if i >= len(train)), 0)
    if place >= HEURISTICS.least_rows:
        lead = of[order[place]]
        order.sort(key=lambda i: of[i] != lead)
    return tuple(rows[i] for i in order)


def taught_rows(context: RunContext) -> tuple[Example, ...]:
    """Train rows that a teacher labelled; every split learns from them, and none holds them out."""
    return tuple(row for row in context.train_sample if row.taught)


def splits_of(context: RunContext) -> tuple[Split, ...]:
    """The split into train and dev; if rows are few, also further splits, so that each of the user's rows is held out once."""
    train, dev = tuple(row for row in context.train_sample if not row.taught), context.dev
    splits = [Split(train, dev)]
    if len(train) + len(dev) < HEURISTICS.few_rows:
        of, folds = fold_units(train), HEURISTICS.few_folds - 1
        groups = None if of is None else of.tolist()
        if count_units(train) >= folds:
            numbers = fold_numbers(context.choosing.strata(train), folds, groups=groups, seed=context.seed)
            for fold in range(folds):
                held = tuple(row for row, number in zip(train, numbers, strict=True) if number == fold)
                learn = (*(row for row, number in zip(train, numbers, strict=True) if number != fold), *dev)
                splits.append(Split(learn, held))
    return with_rows(splits, taught_rows(context))


def with_rows(splits: Sequence[Split], rows: Sequence[Example]) -> tuple[Split, ...]:
    """Splits that also learn from further rows, except those of a group that the split holds out."""

    def fit(split: Split) -> list[Example]:
        held = {row.group for row in split.held} - {None}
        return [row for row in rows if row.group not in held]

    return tuple(Split((*split.learn, *fit(split)), split.held) for split in splits)
