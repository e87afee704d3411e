"""Stratified, seeded splits and subsamples that keep duplicates and groups together."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.task.example import Example
from cotune.task.values.kinds.base import OutputKind

DEV_SHARE, DEV_MOST = 0.3, 300
TEST_SHARE, TEST_LEAST, TEST_MOST = 0.2, 20, 500

Rows = tuple[Example, ...]
Stratum = Callable[[Example], str]
"""Returns the stratum of a row."""


def normalised(text: str) -> str:
    """Normalise a text to find duplicates: NFKC, case folding, single blanks."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def duplicate_key(example: Example) -> str:
    """Key that is equal for rows with equal normalised inputs, whatever their labels; 32 hex digits."""
    if not example._key:
        joined = "\x1f".join(normalised(text) for text in example.fields.values())
        example._key.append(hashlib.sha256(joined.encode()).hexdigest()[:32])
    return example._key[0]


def units(examples: Sequence[Example]) -> list[list[int]]:
    """Groups of indices of rows that must stay together: linked by equal inputs or an equal group, in order of appearance."""
    together: dict[int, list[int]] = {}
    for position, leader in enumerate(linked(map(_links, examples))):
        together.setdefault(leader, []).append(position)
    return list(together.values())


def fold_units(rows: Sequence[Example]) -> NDArray[np.str_] | None:
    """For each row an id of the rows that a fold keeps together: those of its group, and those with equal inputs.

    A row that is predicted by a fit that has learnt from its copy is not held out.

    Returns:
        None if every row stands alone.
    """
    leaders = linked(map(_links, rows))
    return np.array([rows[leader].id for leader in leaders]) if len({*leaders}) < len(rows) else None


def count_units(rows: Sequence[Example]) -> int:
    """Number of units that folds keep together, see :func:`fold_units`; cross-fitting needs two."""
    return len({*linked(map(_links, rows))})


def _links(example: Example) -> list[tuple[str, str]]:
    group = [] if example.group is None else [("group", example.group)]
    return [("input", duplicate_key(example)), *group]


def linked(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """For each index the first index that it is linked to, directly or indirectly, by a shared key."""
    parent: list[int] = []
    first: dict[Hashable, int] = {}

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for position, own in enumerate(keys):
        parent.append(position)
        for key in own:
            low, high = sorted((root(first.setdefault(key, position)), root(position)))
            parent[high] = low
    return [root(position) for position in range(len(parent))]


def quotas(
    counts: Mapping[str, int],
    size: int,
    *,
    least: Mapping[str, int] | None = None,
    most: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Divide ``size`` rows among labels in proportion to ``counts``, by largest remainders within bounds.

    Args:
        counts: number of rows of each label.
        size: number of rows to divide; fewer if the bounds do not allow it.
        least: minimum number of rows of each label.
        most: maximum number of rows of each label; defaults to its count.
    """
    least, most = least or {}, most or counts
    total = sum(counts.values())
    exact = {label: size * count / total for label, count in counts.items()}
    assigned = {label: max(least.get(label, 0), min(most.get(label, 0), int(exact[label]))) for label in counts}
    while sum(assigned.values()) < size:
        open_labels = [label for label in counts if assigned[label] < most.get(label, 0)]
        if not open_labels:
            break
        assigned[max(open_labels, key=lambda label: exact[label] - assigned[label])] += 1
    while sum(assigned.values()) > size:
        open_labels = [label for label in counts if assigned[label] > least.get(label, 0)]
        if not open_labels:
            break
        assigned[min(open_labels, key=lambda label: exact[label] - assigned[label])] -= 1
    return assigned


def by_label(example: Example) -> str:
    """The stratum of a labelled row."""
    return example.output


def stratum_of(kind: OutputKind) -> Stratum:
    """The function from rows to strata for an output kind."""
    return lambda example: kind.stratum(example.output)


def subsample(
    examples: Sequence[Example],
    size: int | None,
    generator: np.random.Generator,
    stratum: Stratum = by_label,
    *,
    every_label: bool = True,
) -> Rows:
    """A stratified subsample in the original order; all rows if ``size`` is None or not smaller.

    Args:
        size: number of rows to keep.
        stratum: function to strata.
        every_label: whether every label keeps a row (two if ``size`` is twice the number of labels), so that rare labels can
            be learnt and survive a later cut of dev. Rows that scores are computed on need the true shares instead.
    """
    if size is None or size >= len(examples):
        return tuple(examples)
    counts = Counter(map(stratum, examples))
    kept_each = min(2, size // len(counts)) if every_label else 0
    labels = sorted(counts)
    if not every_label:
        # Of equal remainders the first labels get theirs, which would always be the same rare ones.
        labels = [labels[int(place)] for place in generator.permutation(len(labels))]
    least = {label: min(kept_each, counts[label]) for label in counts}
    quota = quotas({label: counts[label] for label in labels}, size, least=least)
    chosen: list[int] = []
    for position in generator.permutation(len(examples)):
        label = stratum(examples[position])
        if quota[label] > 0:
            quota[label] -= 1
            chosen.append(int(position))
    return tuple(examples[position] for position in sorted(chosen))


def cut(
    examples: Sequence[Example],
    size: int,
    generator: np.random.Generator,
    stratum: Stratum = by_label,
    keep: frozenset[str] = frozenset(),
) -> tuple[Rows, Rows]:
    """Cut about ``size`` rows: returns (remaining, cut), both in the original order.

    Stratified by label; rows with equal inputs or an equal group stay together; every label keeps at least one remaining row.
    The size is exact unless large units prevent it.

    Args:
        size: number of rows to cut.
        stratum: function to strata.
        keep: :func:`duplicate_key` of rows that must remain, with the rows linked to them.
    """
    if not examples or size <= 0:
        return tuple(examples), ()
    counts = Counter(map(stratum, examples))
    together = units(examples)
    staying = {unit for unit, places in enumerate(together) if keep and any(duplicate_key(examples[i]) in keep for i in places)}
    kept = Counter(stratum(examples[position]) for unit in staying for position in together[unit])
    most = {label: count - max(1, kept[label]) for label, count in counts.items()}
    quota = quotas(dict(sorted(counts.items())), size, most=most)
    content = [Counter(stratum(examples[position]) for position in unit) for unit in together]
    taken: Counter[str] = Counter()
    chosen: set[int] = set()
    order = [int(index) for index in generator.permutation(len(together))]

    def may_leave(unit: int) -> bool:
        return unit not in staying and all(counts[label] - taken[label] - rows >= 1 for label, rows in content[unit].items())

    def take(unit: int) -> None:
        chosen.add(unit)
        taken.update(content[unit])

    for unit in order:
        if may_leave(unit) and all(taken[label] + rows <= quota[label] for label, rows in content[unit].items()):
            take(unit)
    # large units: take those that bring the cut closer to the requested size
    for unit in order:
        if unit in chosen or sum(taken.values()) >= size or not may_leave(unit):
            continue
        before = sum((taken[label] - quota[label]) ** 2 for label in content[unit])
        after = sum((taken[label] + rows - quota[label]) ** 2 for label, rows in content[unit].items())
        if after < before:
            take(unit)
    cut_off = sorted(position for unit in chosen for position in together[unit])
    gone = set(cut_off)
    stays = tuple(example for position, example in enumerate(examples) if position not in gone)
    return stays, tuple(examples[position] for position in cut_off)


def dev_size(labelled: int, limit: int | None = None) -> int:
    """Size of a dev split cut from ``labelled`` rows: ``limit``, or 30% and at most 300."""
    return limit if limit is not None else min(DEV_MOST, round(DEV_SHARE * labelled))


def test_size(labelled: int, limit: int | None = None) -> int:
    """Size of a test split cut from ``labelled`` rows: ``limit``, or 20%, at least 20, at most 500.

    Never more than a third of the rows.
    """
    if limit is not None:
        return limit
    return min(max(TEST_LEAST, round(TEST_SHARE * labelled)), TEST_MOST, labelled // 3)
