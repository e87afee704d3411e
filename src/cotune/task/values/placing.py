"""Where the values of a row's output stand in its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from cotune.task.values.json_value import json_text
from cotune.task.values.number import parse_number, places_of_numbers
from cotune.task.values.spelling import places_alike
from cotune.task.words import words_of

Place = tuple[int, int]
"""First and last word of a value."""


class Owner(NamedTuple):
    """The object that has a value: the path of its list, its number there, and whether it has no other copied value."""

    path: str
    number: int
    alone: bool = False


class Placed(NamedTuple):
    """A value of a part, with its place in the text if it has one."""

    part: int
    value: str
    place: Place | None
    owner: Owner | None


def placed(text: str, values: Sequence[Sequence[Any]], owners: Sequence[Sequence[Owner | None]] | None = None) -> list[Placed]:
    """The values of several parts with their places in a text.

    A value must begin and end with a word, and no two values share one. White space in texts and how a number is written do not
    matter. Values that stand in the text as they are written are placed before those that do in another letter case, the
    longest first, each at its first free place.

    ``owners`` are the objects that have the values, in lists of objects. Equal values are placed in the order of their objects.
    If an object has several values, one of several free places is that nearest to the others, and a value without a free place
    has that of an equal one of another object in the list, such as a city that two people share.
    """
    words = words_of(text)
    starts = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number for number, (_, end) in enumerate(words)}
    taken = np.zeros(len(words), dtype=bool)
    wanted = [
        Placed(part, value if isinstance(value, str) else json_text(value), None, None if owners is None else owners[part][i])
        for part, own in enumerate(values)
        for i, value in enumerate(own)
    ]
    # Equal values are placed in the order of the schema, those of a list's objects in the order of the objects.
    first: dict[str, int] = {}
    for one in wanted:
        if one.owner is not None:
            first.setdefault(one.owner.path, one.part)
    wanted.sort(
        key=lambda one: (-len(one.value), *((one.part, 0) if one.owner is None else (first[one.owner.path], one.owner.number)))
    )
    numbers = {json_text(value) for own in values for value in own if type(value) in (int, float)}

    def exact(value: str) -> Iterator[Place]:
        for start, end in _places_in(text, value, number=value in numbers):
            if start in starts and end in ends:
                yield starts[start], ends[end]

    def free(places: Iterator[Place]) -> Iterator[Place]:
        return (place for place in places if not taken[place[0] : place[1] + 1].any())

    chosen = _Choice(wanted)

    def choose(places: Callable[[str], Iterator[Place]]) -> None:
        """Place the values that have no place yet, last those of objects that could stand at several ones."""
        unclear: list[int] = []
        for number, one in enumerate(wanted):
            if chosen.places[number] is not None:
                continue
            if one.owner is None or one.owner.alone:
                take(number, next(free(places(one.value)), None))
            elif len(own := list(dict.fromkeys(free(places(one.value))))) > 1:
                unclear.append(number)
            else:
                take(number, own[0] if own else None)
        for number in unclear:
            take(number, chosen.nearest(number, list(free(places(wanted[number].value)))))

    def take(number: int, place: Place | None) -> None:
        if place is not None:
            chosen.places[number] = place
            taken[place[0] : place[1] + 1] = True

    choose(exact)
    choose(lambda value: places_alike(text, value))
    found = [one._replace(place=place) for one, place in zip(wanted, chosen.places, strict=True)]
    return [one._replace(place=chosen.shared(number)) if one.place is None else one for number, one in enumerate(found)]


@dataclass
class _Choice:
    """Chooses among the places of the values of objects."""

    wanted: Sequence[Placed]

    def __post_init__(self) -> None:
        self.places: list[Place | None] = [None] * len(self.wanted)

    def _of(self, owner: Owner) -> list[Place]:
        """The places of an object's values so far."""
        pairs = zip(self.wanted, self.places, strict=True)
        return [place for one, place in pairs if one.owner == owner and place is not None]

    def nearest(self, number: int, places: Sequence[Place]) -> Place | None:
        """The place nearest to the other values of the object; if it has none, the first one behind the object before."""
        owner = self.wanted[number].owner
        if owner is None or not places:
            return None
        if own := self._of(owner):
            return min(places, key=lambda place: min(_distance(place, other) for other in own))
        before = max((last for _, last in self._of(Owner(owner.path, owner.number - 1))), default=-1)
        return next((place for place in places if place[0] > before), places[0])

    def shared(self, number: int) -> Place | None:
        """The place of an equal value of the same property in another object of the list."""
        own = self.wanted[number]
        if own.owner is None or own.owner.alone:
            return None
        places = [
            place
            for one, place in zip(self.wanted, self.places, strict=True)
            if one.owner is not None
            and one.owner.path == own.owner.path
            and (one.part, one.value.casefold().split()) == (own.part, own.value.casefold().split())
            and place is not None
        ]
        return self.nearest(number, places)


def _distance(one: Place, other: Place) -> int:
    return max(one[0] - other[1], other[0] - one[1])


def _places_in(text: str, value: str, *, number: bool) -> Iterator[tuple[int, int]]:
    """Start and end of each place of a value in a text; of a number first those where it is written alike."""
    parts = value.split()
    plain = " ".join(parts)
    place = text.find(plain) if plain else -1
    if place < 0 and len(parts) > 1:
        yield from (match.span() for match in re.finditer(r"\s+".join(map(re.escape, parts)), text))
    while place >= 0:
        yield place, place + len(plain)
        place = text.find(plain, place + 1)
    if number:
        wanted = Decimal(value)
        yield from (place for place in places_of_numbers(text) if parse_number(text[slice(*place)]) == wanted)
