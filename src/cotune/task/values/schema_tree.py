"""A JSON schema as a tree of parts that are closed or copied: which fields they have, and how values are read and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cotune.task.values.grouping import Grouping
from cotune.task.values.json_value import json_text
from cotune.task.values.output_fields import ABSENT, Blank, ClosedField, CopiedField, text_of

_MOST_RANGE = 24
"""Maximum number of whole numbers between two bounds that count as values, as of an inferred enumeration."""


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
class Value(Node):
    """A single value; with one possible value it is no field."""

    values: tuple[Any, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The number of each value, by its text."""
        return {text_of(value): number for number, value in enumerate(self.values)}

    def fields(self, path: str) -> Iterator[ClosedField]:
        if len(self.values) > 1:
            yield ClosedField(path, self.values)

    def read(self, value: Any) -> Iterator[int | None]:
        place = self._numbers.get(text_of(value))
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
        other = {text_of(one): number for number, one in enumerate(self.instead)}.get(text_of(value))
        if self.instead:
            yield len(self.instead) if other is None else other
        texts = set() if other is not None else self._texts(value)
        yield from [None] * len(self.items) if texts is None else (int(json_text(item) in texts) for item in self.items)

    def _texts(self, value: Any) -> set[str] | None:
        """The items that a value has; None if it does not fit."""
        listed, (least, most) = isinstance(value, list), self.bounds
        texts = [text_of(item) for item in (value if listed else [value])]
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
        return _nothing(self.field.blank, [] if self.field.many else "" if self.field.type == "string" else 0)


@dataclass(frozen=True)
class _ObjectList(Node):
    """A list of objects with copied values.

    Attributes:
        copies: the copied parts.
        names: the properties of an object, in order.
    """

    copies: tuple[CopiedField, ...]
    names: tuple[str, ...]

    def fields(self, path: str) -> Iterator[CopiedField]:
        yield from self.copies

    def read(self, value: Any) -> Iterator[int | None]:
        if value is not ABSENT and value is not None and not (isinstance(value, list) and all(map(self._knows, value))):
            yield None

    @abstractmethod
    def _knows(self, item: Any) -> bool:
        """Whether an item of a list fits."""


@dataclass(frozen=True)
class _Objects(_ObjectList):
    """A list of objects, each of which has one copied value and some closed ones."""

    def _knows(self, item: Any) -> bool:
        known = isinstance(item, dict) and set(self.names).issuperset(item)
        return known and any(one.is_of(item) and _is_of_type(item.get(one.within[1]), one.type) for one in self.copies)

    def written(self, values: Iterator[Any]) -> Any:
        """The objects in the order of their values in the text; here each value comes with its place."""
        placed = [(place, one, value) for one in self.copies for place, value in next(values)]
        first = self.copies[0]
        if not placed:
            return _nothing(first.blank, [])
        return [
            _without_absent({name: dict(one.given).get(name, value) for name in self.names})
            for _, one, value in sorted(placed, key=lambda found: found[0])[: first.most]
        ]


@dataclass(frozen=True)
class _Groups(_ObjectList):
    """A list of objects with several copied values each, and some closed ones."""

    grouping: Grouping

    def _knows(self, item: Any) -> bool:
        if not isinstance(item, dict) or not set(self.names).issuperset(item):
            return False
        kinds = [one for one in self.copies if one.given]
        fits = all(_is_of_type(item[one.within[1]], one.type) for one in self.copies if item.get(one.within[1]) is not None)
        return fits and (not kinds or any(one.is_of(item) for one in kinds))

    def written(self, values: Iterator[Any]) -> Any:
        """The objects; the first part comes with all of them, each with its copied and closed values by name."""
        first, (objects, *_) = self.copies[0], [next(values) for _ in self.copies]
        if not objects:
            return _nothing(self.grouping.blank, [])
        blanks = {one.within[1]: {"null": None, "empty": ""}.get(one.blank, ABSENT) for one in self.copies}
        found = [{name: own[name] if name in own else blanks[name] for name in self.names} for own in objects[: first.most]]
        return list(map(_without_absent, found))


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
        return ABSENT if absent else _without_absent(found)


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


def _without_absent(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object of the properties that are there."""
    return {name: value for name, value in found.items() if value is not ABSENT}


def _nothing(blank: Blank, empty: Any) -> Any:
    """What stands for a part without a value."""
    return ABSENT if blank == "absent" else None if blank == "null" else empty


def _is_of_type(value: Any, type_: str) -> bool:
    """Whether a value is of the type of a copied part."""
    return isinstance(value, str) if type_ == "string" else type(value) is int or (type_ == "number" and type(value) is float)


def node_of(schema: Any, copied: Sequence[CopiedField] = (), path: str = "") -> Node | None:
    """A schema as a tree of closed parts and of those that are ``copied``; None if it has others."""
    if not isinstance(schema, Mapping):
        return None
    if found := [one for one in copied if one.path in (path, f"{path}[]")]:
        return _Copied(found[0])
    if found := [one for one in copied if one.within[1] and one.within[0] == path]:
        return _objects(tuple(found), tuple(_items_of(schema)["properties"]))
    if (values := single_values_of(schema)) is not None:
        return Value(values)
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
    found = [one["items"] for one in options_of(schema) if isinstance(one.get("items"), Mapping)]
    return found[0] if len(found) == 1 else {}


def options_of(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a schema (``anyOf``) that are schemas themselves; the schema alone if it has none."""
    options = schema["anyOf"] if isinstance(schema.get("anyOf"), list) else [schema]
    return [option for option in options if isinstance(option, Mapping)]


def _list_of(schema: Mapping[str, Any]) -> _List | None:
    """A list of items that are few, possibly beside null or single values; None for any other schema."""
    options, given = options_of(schema), schema.get("anyOf")
    lists = [one for one in options if one.get("type") == "array"]
    others = [single_values_of(one) for one in options if one.get("type") != "array"]
    if len(lists) != 1 or (isinstance(given, list) and len(options) < len(given)) or None in others:
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
    if isinstance(node, Value):
        return Value((ABSENT, *node.values))
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
