"""Closed fields: the parts of a JSON output that are each one of a few values, as its schema says.

An output all of whose parts are closed, such as ``{"urgent": true, "mood": "angry"}``, is a row of choices. These can be read
off a hidden state, each by its own linear map. Parts may also be copied from the row's text, see
:mod:`cotune.task.values.tags`. Any other JSON has to be generated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.grouping import Grouping
from cotune.task.values.json_value import NO_JSON, json_in, json_text

MOST_VALUES = 512
"""Maximum number of values over all fields. Each is a row of the read-out's weights, and each field is one more regression."""
_MOST_RANGE = 24
"""Maximum number of whole numbers between two bounds that count as values, as of an inferred enumeration."""


@dataclass(frozen=True, eq=False)
class FieldAnswers:
    """Answers with probabilities.

    Attributes:
        outputs: the answers.
        shares: ``[rows, shown]`` probabilities of what :attr:`AnswerFields.shown` names.
        confidence: ``[rows]`` probability that the whole answer is right; None for answers that can be nearly right.
    """

    outputs: tuple[str, ...]
    shares: NDArray[np.float64]
    confidence: NDArray[np.float64] | None


class AnswerFields(Protocol):
    """Fields with a few values each, by which an answer is read off hidden states instead of being generated.

    Attributes:
        words: whether each word of a row has a state that is read, and then the whole row; False if only the row has one.
    """

    words: ClassVar[bool]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all fields' values, in order."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each field."""
        ...

    def places(self, output: str, text: str) -> NDArray[np.int64] | None:
        """``[states, fields]`` places in :attr:`names` of the values in an output for a row's text, at each state that is read.

        None if the output has another form or value.
        """
        ...

    def answers(self, log_probs: NDArray[np.float64], texts: Sequence[str]) -> tuple[str, ...]:
        """The outputs of rows with these texts, given ``[states, values]`` log-probabilities of :attr:`names`, row by row."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of what has a probability in an answer: values, or parts of which one value is answered."""
        ...

    def judged(self, log_probs: NDArray[np.float64], texts: Sequence[str]) -> FieldAnswers:
        """The outputs of :meth:`answers`, with probabilities."""
        ...


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()
"""The value of an optional property that an object does not have."""


@dataclass(frozen=True)
class ClosedField:
    """A field with its possible values.

    Attributes:
        path: where it stands in the output, such as ``flags.urgent``, or ``topics[]`` for one item of a list.
        values: the possible values; for an item of a list False and True, whether the list has it.
        item: the item; None for other fields.
        bounds: of an item, how many items its list may have at least and at most; None for other fields.
    """

    path: str
    values: tuple[Any, ...]
    item: Any = None
    bounds: tuple[int, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each value that no other field has: ``mood="angry"``, ``topics[]="billing": true``."""
        start = self.path if self.item is None else f"{self.path}={json_text(self.item)}"
        return tuple(f"{start}{':' if self.item is not None else '='}{_text_of(value)}" for value in self.values)


Blank = Literal["absent", "null", "empty", "never"]
Spelling = Literal["same", "lower", "upper", "title", "capitalised", "number"]


@dataclass(frozen=True)
class CopiedField:
    """A part of an output that is copied from the row's text.

    Attributes:
        path: where it stands in the output, such as ``slots.city``, ``people[]`` for the items of a list, or ``people[].name``
            for a list of objects.
        type: ``string``, ``integer`` or ``number``.
        blank: what is written if nothing is copied: ``absent`` (no such property), ``null``, ``empty`` (a text or list), or
            ``never`` if something must be copied; a text without a fitting word then gives an empty text or 0. In a list of
            objects with several copied values, this is about one object, which without a fitting word is not answered.
        most: maximum number of values. Of a part that is no list, several are written as a list and one by itself.
        given: names and values of the other properties of a list's objects, such as ``role="guest"``; other values are another
            part.
        spelling: how a text is written, see :mod:`cotune.task.values.spelling`.
        grouping: how the values of a list of objects with several copied ones are grouped; None for all other parts.
    """

    path: str
    type: str
    blank: Blank
    most: int = 1
    given: tuple[tuple[str, Any], ...] = ()
    spelling: Spelling = "same"
    grouping: Grouping | None = None

    def to_json(self) -> dict[str, Any]:
        """For bundles, journals and summaries; without the spelling where texts are copied as they stand."""
        record = asdict(self)
        if self.spelling == "same":
            del record["spelling"]
        if self.grouping is None:
            del record["grouping"]
        return record

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CopiedField:
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, AttributeError: it is not of this form.
        """
        given = tuple((name, value) for name, value in data.get("given", ()))
        grouping = None if data.get("grouping") is None else Grouping.from_json(data["grouping"])
        return cls(**{**data, "given": given, "grouping": grouping})

    @property
    def many(self) -> bool:
        """Whether it is a list, which may have several values."""
        return self.path.endswith("[]")

    @property
    def within(self) -> tuple[str, str]:
        """The path of the list whose objects have it and its name there; two empty texts if it is in no such list."""
        place, mark, name = self.path.rpartition("[].")
        return (place, name) if mark else ("", "")

    @property
    def name(self) -> str:
        """Its path, with the values beside it."""
        beside = ", ".join(f"{name}={json_text(value)}" for name, value in self.given)
        return f"{self.path} with {beside}" if beside else self.path


@dataclass(frozen=True)
class ClosedFields:
    """All fields of a closed output, in the order of its schema.

    Attributes:
        fields: the fields with two or more possible values.
        names: names of all fields' values, in order.
        sizes: number of values of each field.
    """

    words: ClassVar[bool] = False

    fields: tuple[ClosedField, ...]
    _root: Node = field(repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for each in self.fields for name in each.names)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(each.values) for each in self.fields)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """Place of each field's first value."""
        return tuple(accumulate((0, *self.sizes)))[: len(self.sizes)]

    @property
    def lists(self) -> list[tuple[slice, tuple[int, int]]]:
        """The fields of each list whose length is bounded, and the bounds."""
        found: list[tuple[slice, tuple[int, int]]] = []
        for (_, bounds), group in groupby(enumerate(self.fields), key=lambda pair: (pair[1].path, pair[1].bounds)):
            numbers = [number for number, _ in group]
            if bounds is not None and bounds != (0, len(numbers)):
                found.append((slice(numbers[0], numbers[-1] + 1), bounds))
        return found

    @cached_property
    def _known(self) -> dict[str, NDArray[np.int64] | None]:
        """Places of the outputs so far: the same rows are asked for with every prompt, and reading JSON takes long."""
        return {}

    def places(self, output: str, text: str = "") -> NDArray[np.int64] | None:
        """``[1, fields]`` place in :attr:`names` of each field's value; None if the output has another form or value."""
        if output not in self._known:
            value = json_in(output)
            self._known[output] = None if value is NO_JSON else self.places_of(value)
        return self._known[output]

    def places_of(self, value: Any) -> NDArray[np.int64] | None:
        """The places of a JSON value."""
        found = list(self._root.read(value))
        if len(found) != len(self.fields) or None in found:
            return None
        return np.array([[start + place for start, place in zip(self._starts, found, strict=True) if place is not None]])

    def answers(self, log_probs: NDArray[np.float64], texts: Sequence[str] = ()) -> tuple[str, ...]:
        """The outputs with the likeliest value of each field, given ``[rows, values]`` log-probabilities."""
        return tuple(json_text(self._root.written(iter(self.values(places)))) for places in self.chosen(log_probs).tolist())

    @property
    def shown(self) -> tuple[str, ...]:
        """All values."""
        return self.names

    def judged(self, log_probs: NDArray[np.float64], texts: Sequence[str] = ()) -> FieldAnswers:
        """The outputs with the probabilities of all values."""
        return FieldAnswers(self.answers(log_probs), np.exp(log_probs), self.confidence(log_probs))

    def confidence(self, log_probs: NDArray[np.float64], places: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """``[rows]`` probability that all fields are right: the product of the probabilities of the chosen values.

        Values in an object that is not there do not count. ``places`` are the chosen ones; None for the likeliest.
        """
        if not self.fields:
            return np.ones(len(log_probs))
        places = self.chosen(log_probs) if places is None else places
        shares = np.take_along_axis(log_probs, places, axis=1)
        for number, outer in enumerate(self._around):
            for one in outer:
                shares[~self.is_there(places[:, one], one), number] = 0.0
        found: NDArray[np.float64] = np.exp(shares.sum(axis=1))
        return np.minimum(found, 1.0)

    @cached_property
    def _around(self) -> list[tuple[int, ...]]:
        """For each field, those that say whether the optional objects around it are there."""
        pairs = zip(self._root.fields(""), around(self._root), strict=True)
        return [outer for one, outer in pairs if isinstance(one, ClosedField)]

    def is_there(self, place: Any, number: int) -> Any:
        """Whether a place in :attr:`names` of the field that says so means that an optional object is there."""
        return place > self._starts[number]

    def there(self, number: int) -> int:
        """The place in :attr:`names` that says that an optional object is there."""
        return self._starts[number] + 1

    def chosen(self, log_probs: NDArray[np.float64]) -> NDArray[np.int64]:
        """``[rows, fields]`` places of the likeliest values.

        A list with more items than it may have loses the least likely ones, and one with fewer gets the likeliest others.
        """
        starts = np.array(self._starts)
        parts = zip(self._starts, self.sizes, strict=True)
        chosen = np.stack([log_probs[:, start : start + size].argmax(axis=1) + start for start, size in parts], axis=1)
        for columns, (least, most) in self.lists:
            places, start = chosen[:, columns], starts[columns]
            # An item's place is that of False, and the next one that of True.
            lead = log_probs[:, start + 1] - log_probs[:, start]
            rank = np.argsort(np.argsort(-lead, axis=1, kind="stable"), axis=1)
            chosen[:, columns] = start + np.where(rank < least, 1, np.where(rank >= most, 0, places - start))
        return chosen

    def values(self, places: Sequence[int]) -> list[Any]:
        """The values at some places in :attr:`names`, one of each field."""
        return [one.values[place - start] for one, place, start in zip(self.fields, places, self._starts, strict=True)]


def closed_fields(schema: Mapping[str, Any] | None) -> ClosedFields | None:
    """The fields of a schema under which every part of an output is closed; None if some part is not, or no part can differ.

    Closed are truth values, ``enum``, ``const``, ``null``, whole numbers between two near bounds, alternatives (``anyOf``) of
    these, lists of distinct items that are each one of these, such a list or a single value, and objects of closed parts. A
    list's order carries no meaning: it is written in the order of the schema.
    """
    root = node_of(schema or {})
    if root is None or isinstance(root, _Value):
        return None
    fields = tuple(one for one in root.fields("") if isinstance(one, ClosedField))
    return ClosedFields(fields, root) if fields and sum(len(one.values) for one in fields) <= MOST_VALUES else None


def open_parts(schema: Mapping[str, Any] | None, path: str = "") -> list[str]:
    """Paths of the parts of a schema that keep its outputs from being closed, such as texts and numbers without bounds."""
    schema = schema or {}
    properties, found = schema.get("properties"), []
    if not isinstance(properties, Mapping) or not properties:
        return [] if node_of(schema) is not None else [path]
    for name, part in properties.items():
        inner = f"{path}.{name}" if path else str(name)
        found += open_parts(part, inner) if isinstance(part, Mapping) else [inner]
    return found


class Node(ABC):
    """A part of a schema."""

    @abstractmethod
    def fields(self, path: str) -> Iterator[ClosedField | CopiedField]:
        """Its fields, in order."""

    @abstractmethod
    def read(self, value: Any) -> Iterator[int | None]:
        """The number of each closed field's value; None for one that does not fit."""

    @abstractmethod
    def written(self, values: Iterator[Any]) -> Any:
        """The part with the next values, one of each of its fields; a list of those of a copied field."""


@dataclass(frozen=True)
class _Value(Node):
    """A single value; with one possible value it is no field."""

    values: tuple[Any, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each value, by its text."""
        return {_text_of(value): number for number, value in enumerate(self.values)}

    def fields(self, path: str) -> Iterator[ClosedField]:
        if len(self.values) > 1:
            yield ClosedField(path, self.values)

    def read(self, value: Any) -> Iterator[int | None]:
        place = self._numbers.get(_text_of(value))
        if len(self.values) > 1 or place is None:
            yield place

    def written(self, values: Iterator[Any]) -> Any:
        return next(values) if len(self.values) > 1 else self.values[0]


@dataclass(frozen=True)
class _List(Node):
    """A list of distinct items, each of which is in it or not.

    Attributes:
        items: all items.
        bounds: minimum and maximum number of items.
        alone: items that may stand by themselves, instead of in a list; then a list has at least one.
        listed: items that may stand in a list.
        instead: what may stand in its place: no property, null, or if an item may stand by itself an empty list.
    """

    items: tuple[Any, ...]
    bounds: tuple[int, int]
    alone: tuple[Any, ...] = ()
    listed: tuple[Any, ...] = ()
    instead: tuple[Any, ...] = ()

    def fields(self, path: str) -> Iterator[ClosedField]:
        if self.instead:
            yield ClosedField(path, (*self.instead, "present"))
        for item in self.items:
            yield ClosedField(f"{path}[]", (False, True), item, self.bounds)

    def read(self, value: Any) -> Iterator[int | None]:
        other = {_text_of(one): number for number, one in enumerate(self.instead)}.get(_text_of(value))
        if self.instead:
            yield len(self.instead) if other is None else other
        texts = set() if other is not None else self._texts(value)
        yield from [None] * len(self.items) if texts is None else (int(json_text(item) in texts) for item in self.items)

    def _texts(self, value: Any) -> set[str] | None:
        """The items that a value has; None if it does not fit."""
        listed, (least, most) = isinstance(value, list), self.bounds
        texts = [_text_of(item) for item in (value if listed else [value])]
        known = {json_text(item) for item in (self.listed if listed else self.alone)}
        fits = len(set(texts)) == len(texts) and known.issuperset(texts) and least <= len(texts) <= most
        return set(texts) if fits else None

    def written(self, values: Iterator[Any]) -> Any:
        other = next(values) if self.instead else "present"
        # Every item's value is taken, also of an absent list.
        found = [item for item in self.items if next(values)]
        if other != "present":
            return other
        if not self.alone:
            return found
        alone, listed = ({json_text(item) for item in items} for items in (self.alone, self.listed))
        if len(found) > 1:
            # Some items may only stand by themselves.
            found = [item for item in found if json_text(item) in listed] or found[:1]
        return found[0] if len(found) == 1 and json_text(found[0]) in alone else found


@dataclass(frozen=True)
class _Copied(Node):
    """Values that are copied from the row's text."""

    field: CopiedField

    def fields(self, path: str) -> Iterator[CopiedField]:
        yield self.field

    def read(self, value: Any) -> Iterator[int | None]:
        if isinstance(value, list):
            several = self.field.many or self.field.most > 1
            fits = several and all(_is_of_type(one, self.field.type) for one in value)
        else:
            fits = value is ABSENT or value is None or (not self.field.many and _is_of_type(value, self.field.type))
        if not fits:
            yield None

    def written(self, values: Iterator[Any]) -> Any:
        found = next(values)[: self.field.most]
        if found:
            return found if self.field.many or len(found) > 1 else found[0]
        if self.field.blank == "absent":
            return ABSENT
        if self.field.blank == "null":
            return None
        return [] if self.field.many else "" if self.field.type == "string" else 0


@dataclass(frozen=True)
class _Objects(Node):
    """A list of objects, each of which has one copied value and some closed ones."""

    copies: tuple[CopiedField, ...]
    names: tuple[str, ...]

    def fields(self, path: str) -> Iterator[CopiedField]:
        yield from self.copies

    def read(self, value: Any) -> Iterator[int | None]:
        if value is not ABSENT and value is not None and not (isinstance(value, list) and all(map(self._knows, value))):
            yield None

    def _knows(self, item: Any) -> bool:
        return isinstance(item, dict) and set(item) == set(self.names) and any(self._is(one, item) for one in self.copies)

    def _is(self, one: CopiedField, item: Mapping[str, Any]) -> bool:
        alike = all(json_text(item[name]) == json_text(value) for name, value in one.given)
        return alike and _is_of_type(item[one.within[1]], one.type)

    def written(self, values: Iterator[Any]) -> Any:
        """The objects in the order of their values in the text; here each value comes with its place."""
        placed = [(place, one, value) for one in self.copies for place, value in next(values)]
        first = self.copies[0]
        if not placed:
            return ABSENT if first.blank == "absent" else None if first.blank == "null" else []
        return [
            {name: dict(one.given).get(name, value) for name in self.names}
            for _, one, value in sorted(placed, key=lambda found: found[0])[: first.most]
        ]


@dataclass(frozen=True)
class _Groups(Node):
    """A list of objects with several copied values each, and some closed ones."""

    copies: tuple[CopiedField, ...]
    names: tuple[str, ...]
    grouping: Grouping

    def fields(self, path: str) -> Iterator[CopiedField]:
        yield from self.copies

    def read(self, value: Any) -> Iterator[int | None]:
        if value is not ABSENT and value is not None and not (isinstance(value, list) and all(map(self._knows, value))):
            yield None

    def _knows(self, item: Any) -> bool:
        if not isinstance(item, dict) or not set(self.names).issuperset(item):
            return False
        kinds = [one.given for one in self.copies if one.given]
        alike = (all(_text_of(item.get(name, ABSENT)) == json_text(value) for name, value in own) for own in kinds)
        fits = all(_is_of_type(item[one.within[1]], one.type) for one in self.copies if item.get(one.within[1]) is not None)
        return fits and (not kinds or any(alike))

    def written(self, values: Iterator[Any]) -> Any:
        """The objects; the first part comes with all of them, each with its copied and closed values by name."""
        first, (objects, *_) = self.copies[0], [next(values) for _ in self.copies]
        if not objects:
            return ABSENT if self.grouping.blank == "absent" else None if self.grouping.blank == "null" else []
        blanks = {one.within[1]: {"null": None, "empty": ""}.get(one.blank, ABSENT) for one in self.copies}
        found = [{name: own[name] if name in own else blanks[name] for name in self.names} for own in objects[: first.most]]
        return [{name: value for name, value in own.items() if value is not ABSENT} for own in found]


@dataclass(frozen=True)
class _Object(Node):
    """An object; a field of an optional one says whether it is there."""

    properties: tuple[tuple[str, Node], ...]
    optional: bool = False

    def fields(self, path: str) -> Iterator[ClosedField | CopiedField]:
        if self.optional:
            yield ClosedField(path, (ABSENT, "present"))
        for name, node in self.properties:
            yield from node.fields(f"{path}.{name}" if path else name)

    def read(self, value: Any) -> Iterator[int | None]:
        if self.optional:
            yield int(value is not ABSENT)
            if value is ABSENT:
                # What an object would have that is not there is not read, but every field has a value.
                yield from (0 for _, node in self.properties for one in node.fields("") if isinstance(one, ClosedField))
                return
        if not isinstance(value, dict) or not {name for name, _ in self.properties}.issuperset(value):
            yield None
            return
        for name, node in self.properties:
            yield from node.read(value.get(name, ABSENT))

    def written(self, values: Iterator[Any]) -> Any:
        absent = self.optional and next(values) is ABSENT
        # Every part's value is taken, also in an absent object.
        found = {name: node.written(values) for name, node in self.properties}
        return ABSENT if absent else {name: value for name, value in found.items() if value is not ABSENT}


def around(node: Node, first: int = 0) -> list[tuple[int, ...]]:
    """For each field of a node, which closed fields say whether the optional objects around it are there.

    Closed fields count from ``first``.
    """
    if not isinstance(node, _Object):
        return [() for _ in node.fields("")]
    own = (first,) if node.optional else ()
    found: list[tuple[int, ...]] = [() for _ in own]
    first += len(own)
    for _, inner in node.properties:
        found += [(*own, *outer) for outer in around(inner, first)]
        first += sum(isinstance(one, ClosedField) for one in inner.fields(""))
    return found


def _is_of_type(value: Any, type_: str) -> bool:
    """Whether a value is of the type of a copied part."""
    return isinstance(value, str) if type_ == "string" else type(value) is int or (type_ == "number" and type(value) is float)


def _text_of(value: Any) -> str:
    return repr(value) if value is ABSENT else json_text(value)


def node_of(schema: Any, copied: Sequence[CopiedField] = (), path: str = "") -> Node | None:
    """A schema as a tree of closed parts and of those that are ``copied``; None if it has others."""
    if not isinstance(schema, Mapping):
        return None
    if found := [one for one in copied if one.path in (path, f"{path}[]")]:
        return _Copied(found[0])
    if found := [one for one in copied if one.within[1] and one.within[0] == path]:
        return _objects(tuple(found), tuple(_items_of(schema)["properties"]))
    if (values := single_values_of(schema)) is not None:
        return _Value(values)
    if (listed := _list_of(schema)) is not None:
        return listed
    return _object(schema, copied, path)


def _objects(copies: tuple[CopiedField, ...], names: tuple[str, ...]) -> Node | None:
    """A list of objects with these copied parts; None if they do not fit together."""
    own, groupings = {one.within[1] for one in copies}, {one.grouping for one in copies}
    grouping = groupings.pop()
    if groupings or (grouping is not None) != (len(own) > 1):
        return None
    if grouping is None:
        return _Objects(copies, names)
    # The closed values of an object are known by one of its copied ones.
    heads = {one.within[1] for one in copies if one.given}
    return _Groups(copies, names, grouping) if grouping.fits(own) and len(heads) < 2 else None


def _items_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the items of a list, which may also be null; empty for any other schema."""
    options = schema["anyOf"] if isinstance(schema.get("anyOf"), list) else [schema]
    found = [one["items"] for one in options if isinstance(one, Mapping) and isinstance(one.get("items"), Mapping)]
    return found[0] if len(found) == 1 else {}


def _list_of(schema: Mapping[str, Any]) -> _List | None:
    """A list of items that are few, possibly beside null or single values; None for any other schema."""
    options = schema["anyOf"] if isinstance(schema.get("anyOf"), list) else [schema]
    lists = [one for one in options if isinstance(one, Mapping) and one.get("type") == "array"]
    others = [single_values_of(one) for one in options if isinstance(one, Mapping) and one.get("type") != "array"]
    if len(lists) != 1 or len(lists) + len(others) < len(options) or None in others:
        return None
    (part,) = lists
    listed = single_values_of(part["items"]) if isinstance(part.get("items"), Mapping) else None
    if not listed or "prefixItems" in part or "contains" in part:
        return None
    values = [value for own in others for value in own or ()]
    alone = tuple(value for value in values if value is not None)
    least, most = int(part.get("minItems", 0)), min(len(listed), int(part.get("maxItems", len(listed))))
    if least > most or (alone and not least <= 1 <= most):
        return None
    instead = (*([None] if None in values else []), *([()] if alone and not least else []))
    items = tuple({json_text(item): item for item in (*listed, *alone)}.values())
    return _List(items, (1 if alone else least, most), alone, listed, instead)


def _object(schema: Mapping[str, Any], copied: Sequence[CopiedField], path: str) -> _Object | None:
    inner = schema.get("properties")
    if schema.get("type", "object") != "object" or not isinstance(inner, Mapping) or not inner:
        return None
    if any(key in schema for key in ("anyOf", "oneOf", "allOf", "not", "if", "$ref", "dependentRequired", "dependentSchemas")):
        return None
    required, found = schema.get("required", ()), []
    for name, part in inner.items():
        node = node_of(part, copied, f"{path}.{name}" if path else str(name))
        if node is not None and name not in required:
            node = _optional(node)
        if node is None:
            return None
        found.append((str(name), node))
    return _Object(tuple(found))


def _optional(node: Node) -> Node:
    if isinstance(node, _Value):
        return _Value((ABSENT, *node.values))
    if isinstance(node, _Object):
        return replace(node, optional=True)
    return replace(node, instead=(ABSENT, *node.instead)) if isinstance(node, _List) else node


def single_values_of(schema: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The possible single values under a schema, each once; None if they are not few."""
    if "const" in schema:
        values: Sequence[Any] = [schema["const"]]
    elif isinstance(schema.get("enum"), list):
        values = schema["enum"]
    elif isinstance(schema.get("anyOf"), list):
        parts = [single_values_of(option) if isinstance(option, Mapping) else None for option in schema["anyOf"]]
        if None in parts:
            return None
        values = [value for part in parts for value in part or ()]
    elif (values := _of_types(schema)) == ():
        return None
    if not values or any(isinstance(value, (dict, list)) for value in values):
        return None
    return tuple({json_text(value): value for value in values}.values())


def _of_types(schema: Mapping[str, Any]) -> Sequence[Any]:
    """The values of all of a schema's types; empty if those of a type are not few."""
    types = schema.get("type")
    found: list[Any] = []
    for name in types if isinstance(types, list) else [types]:
        if name == "boolean":
            found += [False, True]
        elif name == "null":
            found.append(None)
        elif name == "integer" and (numbers := _range(schema)):
            found += numbers
        else:
            return ()
    return found


def _range(schema: Mapping[str, Any]) -> Sequence[int]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if type(low) is not int or type(high) is not int or "multipleOf" in schema:
        return ()
    return range(low, high + 1) if 0 <= high - low < _MOST_RANGE else ()
