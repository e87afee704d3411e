"""Groupings: which values copied from a text form an object, in lists of objects with several copied values each.

The values stand in the text one behind the other, or on either side of the main one of their object. A grouping is learnt from
labelled rows, see :mod:`cotune.task.values.learnt_grouping`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from cotune.task.words import words_of

Rule = Literal["order", "first", "last", "repeat", "nearest"]
Empty = Literal["absent", "null", "empty"]
LINE_BREAK = "\n"
"""Stands for a line break among the words between two values."""
_MOST_NEAR = 4
"""Number of main values on each side of a value of which the nearest is sought."""

RULES: Mapping[Rule, str] = MappingProxyType(
    {
        "order": "have their values in the order {}",
        "first": "begin with {}",
        "last": "end with {}",
        "repeat": "begin where a property recurs",
        "nearest": "have the values nearest to {}",
    }
)
"""All rules, in words."""


class Spot(NamedTuple):
    """A value in a text: its first and last word, and its property."""

    first: int
    last: int
    name: str


@dataclass(frozen=True)
class Grouping:
    """How the values of a list of objects are grouped.

    No object has two values of a property.

    Attributes:
        rule: an object begins where a property recurs (``repeat``), and also: where a value does not follow in the ``order`` of
            properties, with the ``first`` property, or behind the ``last`` one. Or each value of the main property is an
            object, and the others belong to the ``nearest`` one.
        by: the properties in order, the first, the last or the main one; none for ``repeat``.
        separators: words, or line breaks, behind which an object begins; fewer of them are nearer.
        shared: properties that objects without them share with a neighbour, such as one city for two people.
        side: where a shared value stands: ``behind`` the objects without it, or ``before`` them.
        walls: words, or line breaks, across which no value is shared.
        blank: what is written if there is no object: ``absent`` (no such list), ``null`` or ``empty``.
    """

    rule: Rule = "repeat"
    by: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    side: Literal["behind", "before"] = "behind"
    walls: tuple[str, ...] = ()
    blank: Empty = "empty"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grouping:
        """Inverse of :func:`dataclasses.asdict`.

        Raises:
            TypeError, ValueError, AttributeError: it is not of this form.
        """
        parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        found = cls(**parts)
        lists = (found.by, found.separators, found.shared, found.walls)
        if not all(isinstance(own, tuple) and all(isinstance(one, str) for one in own) for own in lists):
            raise ValueError("a grouping's names and words are not lists of texts")
        if found.rule not in tuple(RULES) or found.side not in ("behind", "before"):
            raise ValueError("a grouping has an unknown rule or side")
        if found.blank not in ("absent", "null", "empty"):
            raise ValueError("a grouping has an unknown blank")
        if bool(found.by) != (found.rule != "repeat") or (len(found.by) > 1 and found.rule != "order"):
            raise ValueError("a grouping's rule needs other properties")
        return found

    def fits(self, names: Collection[str]) -> bool:
        """Whether it is one of objects with these properties."""
        return set(names) >= {*self.by, *self.shared} and (self.rule != "order" or sorted(self.by) == sorted(names))

    @property
    def text(self) -> str:
        """The rule in words, behind a name for the objects."""
        found = RULES[self.rule].format(", ".join(map(repr, self.by)))
        if self.separators:
            listed = ", ".join("a line break" if word == LINE_BREAK else repr(word) for word in self.separators)
            found += f"; {listed} part{'s' if len(self.separators) == 1 else ''} them"
        return found + (f"; they may share {', '.join(map(repr, self.shared))}" if self.shared else "")


def marked_words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, each behind a line break if one stands before it."""
    words = words_of(text)
    ends = (0, *(end for _, end in words))
    return tuple(
        (LINE_BREAK if LINE_BREAK in text[last:start] else "") + text[start:end].casefold()
        for last, (start, end) in zip(ends, words, strict=False)
    )


def words_between(words: Sequence[str], last: int, first: int) -> list[str]:
    """The :func:`marked_words` between two values, and the line breaks by themselves."""
    between = words[last + 1 : first + 1]
    breaks = [LINE_BREAK for word in between if word.startswith(LINE_BREAK)]
    return [word.removeprefix(LINE_BREAK) for word in between[:-1]] + breaks


def grouped(spots: Sequence[Spot], words: Sequence[str], how: Grouping) -> list[list[int]]:
    """The numbers of the values of each object, the objects in the order of the text.

    Args:
        spots: the values, in the order of the text.
        words: the :func:`marked_words`.
        how: how they are grouped. A shared value is one of several objects.
    """
    objects = _near(spots, words, how) if how.rule == "nearest" else _in_a_row(spots, words, how)
    return _shared(spots, words, how, objects) if how.shared else objects


def _in_a_row(spots: Sequence[Spot], words: Sequence[str], how: Grouping) -> list[list[int]]:
    objects: list[list[int]] = []
    ranks = {name: rank for rank, name in enumerate(how.by)}

    def begins(number: int) -> bool:
        own, name = objects[-1], spots[number].name
        last = spots[own[-1]]
        if any(spots[one].name == name for one in own):
            return True
        if how.rule == "order" and ranks.get(name, len(ranks)) <= ranks.get(last.name, len(ranks)):
            return True
        if (how.rule == "first" and name == how.by[0]) or (how.rule == "last" and last.name == how.by[0]):
            return True
        return bool(how.separators) and _crossed(words, last, spots[number], how.separators) > 0

    for number in range(len(spots)):
        if not objects or begins(number):
            objects.append([])
        objects[-1].append(number)
    return objects


def _near(spots: Sequence[Spot], words: Sequence[str], how: Grouping) -> list[list[int]]:
    mains = [number for number, one in enumerate(spots) if one.name == how.by[0]]
    pairs = []
    for number, one in enumerate(spots):
        if one.name == how.by[0]:
            continue
        before = sum(main < number for main in mains)
        for place in range(max(before - _MOST_NEAR, 0), min(before + _MOST_NEAR, len(mains))):
            left, right = sorted((one, spots[mains[place]]))
            crossed = _crossed(words, left, right, how.separators)
            # Of two that are equally near, the value belongs to the one before it.
            pairs.append((crossed, right.first - left.last, place >= before, number, place))
    objects, placed = [[main] for main in mains], set[int]()
    for _, _, _, number, place in sorted(pairs):
        if number not in placed and all(spots[one].name != spots[number].name for one in objects[place]):
            placed.add(number)
            objects[place].append(number)
    loose = [number for number, one in enumerate(spots) if number not in placed and one.name != how.by[0]]
    rest = _in_a_row([spots[number] for number in loose], words, Grouping())
    objects += [[loose[one] for one in own] for own in rest]
    return [sorted(own) for own in sorted(objects, key=lambda own: own[0])]


def _shared(spots: Sequence[Spot], words: Sequence[str], how: Grouping, objects: list[list[int]]) -> list[list[int]]:
    found, step = [list(own) for own in objects], 1 if how.side == "before" else -1
    for name in how.shared:
        carried, previous = None, None
        for own, given in zip(objects[::step], found[::step], strict=True):
            if previous is not None and how.walls:
                left, right = (previous, own) if step > 0 else (own, previous)
                if _crossed(words, spots[left[-1]], spots[right[0]], how.walls):
                    carried = None
            mine = [number for number in own if spots[number].name == name]
            carried, previous = mine[0] if mine else carried, own
            if not mine and carried is not None:
                given.append(carried)
    return [sorted(own) for own in found]


def _crossed(words: Sequence[str], left: Spot, right: Spot, separators: Collection[str]) -> int:
    return sum(word in separators for word in words_between(words, left.last, right.first)) if separators else 0
