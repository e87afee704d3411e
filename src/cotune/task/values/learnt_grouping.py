"""Learning from labelled rows how values copied from a text are grouped into objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.grouping import Grouping, Spot, grouped, words_between

LEAST_GROUPED = 0.9
"""Minimum share of labelled rows whose objects a grouping makes from the places of their values."""
MOST_ROWS = 300
"""Maximum number of rows that a grouping is learnt from."""
_FOLDS = 4
_LEAST_SEEN, _MOST_INSIDE, _MOST_SEPARATORS = 3, 0.05, 12
"""Minimum number of times that a separator stands between objects; maximum share of that inside one; maximum of separators."""

Object = tuple[tuple[str, str], ...]
"""Properties and values of an object, sorted."""


@dataclass(frozen=True)
class GroupedRow:
    """The values of a labelled row whose objects are known.

    Attributes:
        spots: where the values stand, in the order of the text.
        values: the values.
        owners: numbers of the objects that have each value; several if they share it.
        words: the text's :func:`~cotune.task.values.grouping.marked_words`.
        count: number of objects, also of those without any value, which no grouping makes.
    """

    spots: tuple[Spot, ...]
    values: tuple[str, ...]
    owners: tuple[frozenset[int], ...]
    words: tuple[str, ...]
    count: int

    @cached_property
    def objects(self) -> list[Object]:
        """The labelled objects."""
        members = [[i for i, own in enumerate(self.owners) if number in own] for number in range(self.count)]
        return [self.object_of(own) for own in members]

    def object_of(self, members: Sequence[int]) -> Object:
        """An object with these values."""
        return tuple(sorted((self.spots[i].name, self.values[i]) for i in members))

    @cached_property
    def right(self) -> Counter[Object]:
        """The objects without order."""
        return Counter(self.objects)

    def without(self, number: int) -> GroupedRow:
        """The row where one value was not found."""
        kept = [i for i in range(len(self.spots)) if i != number]
        numbers = sorted({one for i in kept for one in self.owners[i]})
        owners = [frozenset(map(numbers.index, self.owners[i])) for i in kept]
        spots, values = tuple(self.spots[i] for i in kept), tuple(self.values[i] for i in kept)
        return GroupedRow(spots, values, tuple(owners), self.words, len(numbers))

    def made(self, how: Grouping) -> list[Object]:
        """The objects that a grouping makes of the values."""
        return [self.object_of(own) for own in grouped(self.spots, self.words, how)]


# The same rows are learnt from for several schemas of a task.
@lru_cache(maxsize=8)
def learnt_grouping(
    rows: tuple[GroupedRow, ...], names: tuple[str, ...], usual: Grouping | None = None
) -> tuple[Grouping, int]:
    """The grouping that makes the most rows' objects of the places of their values; and how many rows' the choice makes.

    Of equal ones, the one that makes most if one value of each row is missed is chosen. The second number is cross-checked: no
    row has a part in the grouping by which it is counted.

    Args:
        rows: labelled rows with objects.
        names: the properties, in order.
        usual: an earlier bundle's grouping, which is kept unless another gives clearly more rows.
    """
    known: dict[Grouping, NDArray[np.bool_]] = {}
    harmed: dict[Grouping, NDArray[np.bool_]] = {}
    lacking = [row.without(7 * number % len(row.spots)) if len(row.spots) > 1 else row for number, row in enumerate(rows)]

    def scores(how: Grouping) -> NDArray[np.bool_]:
        """Whether the objects of each row are right."""
        if how not in known:
            known[how] = np.array([Counter(row.made(how)) == row.right for row in rows])
        return known[how]

    def others(how: Grouping) -> NDArray[np.bool_]:
        """``[rows, 2]`` whether they are if a value is missed, and in their order."""
        if how not in harmed:
            pairs = zip(rows, lacking, strict=True)
            harmed[how] = np.array(
                [(Counter(less.made(how)) == less.right, row.made(how) == row.objects) for row, less in pairs]
            )
        return harmed[how]

    def best(chosen: list[int]) -> Grouping:
        candidates = list(_candidates([rows[i] for i in chosen], names))
        counts = [int(scores(how)[chosen].sum()) for how in candidates]
        equal = [how for how, count in zip(candidates, counts, strict=True) if count == max(counts)]
        found = max(equal, key=lambda how: others(how)[chosen].sum(axis=0).tolist())
        if usual is None:
            return found
        old, new = (scores(how)[chosen] for how in (usual, found))
        gain, different = int(new.sum()) - int(old.sum()), int((new != old).sum())
        # As where spellings are learnt: by 1.4 standard errors of the difference.
        return found if gain > 0 and gain**2 >= 2 * different else usual

    folds, right = min(_FOLDS, len(rows)), 0
    for fold in range(folds):
        how = best([i for i in range(len(rows)) if i % folds != fold or folds == 1])
        right += int(scores(how)[fold::folds].sum())
    return best([*range(len(rows))]), right


def _candidates(rows: Sequence[GroupedRow], names: Sequence[str]) -> Iterator[Grouping]:
    """Groupings that rows suggest; of equal ones the first is chosen."""
    inside, joined, apart = _gaps(rows)
    separators = _separators(joined + apart, inside)
    plain = [Grouping("order", _order(rows, names))]
    plain += [Grouping("first", (name,)) for name in names]
    plain += [Grouping("last", (name,)) for name in names]
    plain += [Grouping("nearest", (name,)) for name in names if all(name in dict(one) for row in rows for one in row.objects)]
    plain += [Grouping()]
    several = Counter(name for row in rows for name in {row.spots[i].name for i, own in enumerate(row.owners) if len(own) > 1})
    shared = tuple(name for name in names if several[name] > 1)
    walls = _separators(apart, joined)
    sharings: list[Callable[[Grouping], Grouping]] = [lambda how: how]
    if shared:
        for side in ("behind", "before"):
            for own in dict.fromkeys((walls, ())):
                sharings.append(lambda how, side=side, own=own: replace(how, shared=shared, side=side, walls=own))  # type: ignore[misc]
    for with_ in dict.fromkeys((separators, ())):
        for how in plain:
            for sharing in sharings:
                yield sharing(replace(how, separators=with_))


def _order(rows: Sequence[GroupedRow], names: Sequence[str]) -> tuple[str, ...]:
    """The properties in the order in which an object most often has them."""
    lead: Counter[str] = Counter()
    for row in rows:
        for left, right in combinations(range(len(row.spots)), 2):
            if row.owners[left] & row.owners[right]:
                lead[row.spots[left].name] += 1
                lead[row.spots[right].name] -= 1
    return tuple(sorted(names, key=lambda name: -lead[name]))


def _gaps(rows: Sequence[GroupedRow]) -> tuple[list[set[str]], list[set[str]], list[set[str]]]:
    """The words in each gap between neighbouring values: of one object, of two that share a value, of others."""
    inside, joined, apart = list[set[str]](), list[set[str]](), list[set[str]]()
    for row in rows:
        together = {frozenset(pair) for own in row.owners for pair in combinations(sorted(own), 2)}
        for (left, a), (right, b) in pairwise(zip(row.spots, row.owners, strict=True)):
            beside = any(frozenset((one, other)) in together for one in a for other in b)
            kind = inside if a & b else joined if beside else apart
            kind.append(set(words_between(row.words, left.last, right.first)))
    return inside, joined, apart


def _separators(between: Sequence[set[str]], inside: Sequence[set[str]]) -> tuple[str, ...]:
    """Words of which nearly every gap between two objects has one, if it has any that hardly a gap inside one has.

    The most frequent one is taken, and so on with the gaps that are left.
    """
    often, found, left = _counts(inside), list[str](), list(between)
    alone = {word for word, count in _counts(between).items() if often[word] <= _MOST_INSIDE * count}
    while len(found) < _MOST_SEPARATORS:
        counts = Counter({word: count for word, count in _counts(left).items() if word in alone})
        word, count = max(counts.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
        if count < _LEAST_SEEN:
            break
        found.append(word)
        left = [gap for gap in left if word not in gap]
    return tuple(found)


def _counts(gaps: Sequence[set[str]]) -> Counter[str]:
    return Counter(word for gap in gaps for word in gap)
