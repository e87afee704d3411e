"""Copied values: the parts of a JSON output that stand in the row's text, read off by a tag on each word.

Each word has two fields, the part of the output that it belongs to and whether it continues the value of the word before, so
that every value is a run of words (the tags of Ramshaw and Marcus, 1995, with the name of the part apart from the boundary).
Closed parts are read off the state of the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise, product
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.chain import Chain, likeliest, spans_of
from cotune.task.values.closed import MOST_VALUES, ClosedFields, closed_fields
from cotune.task.values.grouping import Grouping, Spot, grouped, marked_words
from cotune.task.values.json_value import NO_JSON, json_in, json_text
from cotune.task.values.number import parse_number, places_of_numbers
from cotune.task.values.output_fields import ABSENT, AnswerFields, Blank, ClosedField, CopiedField, FieldAnswers
from cotune.task.values.placing import Owner, Placed, placed
from cotune.task.values.schema import Validator, schema_problem
from cotune.task.values.schema_order import is_simple, suits
from cotune.task.values.schema_tree import Node, around, node_of, options_of, single_values_of
from cotune.task.values.spelling import spelled
from cotune.task.values.tag_posterior import posteriors
from cotune.task.words import words_of

Floats = NDArray[np.float64]

_MOST_KINDS = 64
"""Maximum number of combinations of closed values in the objects of a list, each of which is a part that is tagged."""
_LEAST_LEAD = float(np.log(0.25))
"""Least log-odds of a word that is set as a value that an object must have: below a quarter, the object is rather a mistake."""
_AT_ONCE = 256
"""Number of rows whose likeliest tags are found together: tables are padded to the longest of them."""


@dataclass(frozen=True)
class Tags:
    """The fields of an output of which some parts are copied and all others are closed.

    Attributes:
        copied: the copied parts, in the schema's order.
        schemas: their schemas.
        closed: the closed fields.
        chain: how tags follow each other; None decides by the words alone.
    """

    words: ClassVar[bool] = True

    copied: tuple[CopiedField, ...]
    schemas: tuple[Mapping[str, Any], ...] = field(repr=False)
    closed: ClosedFields
    _root: Node = field(repr=False)
    chain: Chain | None = field(default=None, compare=False, repr=False)
    # Places so far: the same rows are asked for with every prompt and with every chain.
    _known: dict[tuple[str, str], NDArray[np.int64] | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tags: no part or one of them, a value's first word or a further one; then the values of closed fields."""
        return ("no part", *(f"in {one.name}" for one in self.copied), "first word", "further word", *self.closed.names)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return (1 + len(self.copied), 2, *self.closed.sizes)

    def places(self, output: str, text: str) -> NDArray[np.int64] | None:
        """``[words + 1, fields]`` places in :attr:`names`: tags of each word, then the closed fields of the whole text.

        -1 stands where a field is not read. None if the output has another form, or a closed part has another value. A value
        that does not stand in the text is left out.
        """
        if (output, text) not in self._known:
            self._known[output, text] = self._read(output, text)
        return self._known[output, text]

    def _read(self, output: str, text: str) -> NDArray[np.int64] | None:
        value = json_in(output)
        closed = None if value is NO_JSON else self.closed.places_of(value)
        if closed is None:
            return None
        parts, count = 1 + len(self.copied), len(words_of(text))
        found = np.full((count + 1, 2 + closed.shape[1]), -1, dtype=np.int64)
        # The whole text is in no part.
        found[:, 0], found[:, 1], found[-1, 2:] = 0, parts, parts + 2 + closed
        for part, _, place, _ in placed_values(text, value, self.copied):
            if place is not None:
                first, last = place
                found[first : last + 1, 0] = 1 + part
                found[first + 1 : last + 1, 1] = parts + 1
        return found

    def tags_of(self, output: str, text: str) -> NDArray[np.int64]:
        """The right tag of each word, see :func:`cotune.task.values.chain.likeliest`; none if the output has another form."""
        places = self.places(output, text)
        if places is None:
            return np.zeros(0, dtype=np.int64)
        part, further = places[:-1, 0], places[:-1, 1] == 2 + len(self.copied)
        return np.where(further, part + len(self.copied), part)

    def tables(self, log_probs: Floats, texts: Sequence[str]) -> list[Floats]:
        """Each row's ``[words, tags]`` log-probabilities, of those of all words and rows."""
        ends = np.cumsum([0, *(len(words_of(text)) + 1 for text in texts)])
        return [log_probs[start : end - 1, : 3 + len(self.copied)] for start, end in pairwise(ends)]

    def answers(self, log_probs: Floats, texts: Sequence[str]) -> tuple[str, ...]:
        """The likeliest values, given ``[words and rows, values]`` log-probabilities, row by row, and the rows' texts."""
        return tuple(output for part in self._parts(log_probs, texts) for output, _, _ in self._answered(*part))

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The copied parts, whose probability is that of what is answered; then the values of closed fields."""
        return (*(one.name for one in self.copied), *self.closed.names)

    def judged(self, log_probs: Floats, texts: Sequence[str]) -> FieldAnswers:
        """The outputs with the probability that a copied part has exactly the answered words, if any, and no others.

        The whole output is right with the probability of that of all copied parts together, times those of the closed values.
        """
        outputs: list[str] = []
        shares, confidence = [np.zeros((0, len(self.shown)))], [np.zeros(0)]
        for tables, closed, some in self._parts(log_probs, texts):
            found = list(self._answered(tables, closed, some))
            alone, together = posteriors(tables, [spans for _, spans, _ in found], self._chain)
            outputs += [output for output, _, _ in found]
            shares.append(np.concatenate([alone, np.exp(closed)], axis=1))
            confidence.append(together * self.closed.confidence(closed, np.array([places for _, _, places in found])))
        return FieldAnswers(tuple(outputs), np.concatenate(shares), np.concatenate(confidence))

    def _parts(self, log_probs: Floats, texts: Sequence[str]) -> Iterator[tuple[list[Floats], Floats, Sequence[str]]]:
        """Some rows at a time: the log-probabilities of each one's tags and of all their closed values, and their texts."""
        tables, ends = self.tables(log_probs, texts), np.cumsum([len(words_of(text)) + 1 for text in texts], dtype=np.int64)
        closed = log_probs[ends - 1, 3 + len(self.copied) :]
        for first in range(0, len(texts), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            yield tables[some], closed[some], texts[some]

    @property
    def _chain(self) -> Chain:
        return self.chain or Chain.flat(len(self.copied))

    def _answered(
        self, tables: Sequence[Floats], closed: Floats, texts: Sequence[str]
    ) -> Iterator[tuple[str, dict[int, list[tuple[int, int]]], list[int]]]:
        """The outputs of some rows, where the values of each part stand, and the places of closed ones; parts count from 1."""
        chosen = self.closed.chosen(closed) if self.closed.fields else np.zeros((len(texts), 0), dtype=np.int64)
        paths = likeliest(tables, self._chain)
        for text, table, path, places in zip(texts, tables, paths, chosen.tolist(), strict=True):
            found = self._found(text, table, path, places)
            objects = {numbers[0]: self._objects(text, table, found, numbers) for numbers in self._lists}
            spans = {part: [(first, last) for first, last, _ in own] for part, own in found.items()}
            yield json_text(self._root.written(self._values(found, objects, places))), spans, places

    def _found(
        self, text: str, table: Floats, path: NDArray[np.int64], places: list[int]
    ) -> dict[int, list[tuple[int, int, Any]]]:
        """First word, last word and value of each part's values in a row; parts count from 1.

        In the ``places`` of closed values, an optional object that has one of the values is set to be there.
        """
        spans, answered = spans_of(path, len(self.copied)), {}
        for number, one in enumerate(self.copied, 1):
            own = spans[number]
            if one.most == 1 and not one.within[1]:
                # The clearest first, of which the first that fits is taken.
                own = sorted(own, key=lambda span: -float(table[span[0] : span[1] + 1, number].mean()))
            answered[number] = list(_read(text, own, one, self._fits[number - 1]))
            if answered[number]:
                for outer in self._around[number - 1]:
                    places[outer] = self.closed.there(outer)
        for number, one in enumerate(self.copied, 1):
            there = all(self.closed.is_there(places[outer], outer) for outer in self._around[number - 1])
            if not answered[number] and one.blank == "never" and there and one.grouping is None:
                lead = table[:, number] - table[:, 0]
                taken = {word for own in answered.values() for first, last, _ in own for word in range(first, last + 1)}
                # Words of other values only if there are no others.
                units = sorted(
                    _units(text, one.type),
                    key=lambda span: (
                        not taken.isdisjoint(range(span[0], span[1] + 1)),
                        -float(lead[span[0] : span[1] + 1].mean()),
                    ),
                )
                answered[number] = list(islice(_read(text, units, one, self._fits[number - 1]), 1))
            # A list's objects are counted over all of their kinds.
            if not one.within[1] and not self.schemas[number - 1].get("uniqueItems"):
                answered[number] = answered[number][: one.most]
        return answered

    @cached_property
    def _lists(self) -> list[list[int]]:
        """The numbers of the parts of each list of objects with several copied values."""
        found: dict[str, list[int]] = {}
        for number, one in enumerate(self.copied, 1):
            if one.grouping is not None:
                found.setdefault(one.within[0], []).append(number)
        return list(found.values())

    def _objects(
        self, text: str, table: Floats, found: Mapping[int, list[tuple[int, int, Any]]], numbers: Sequence[int]
    ) -> list[dict[str, Any]]:
        """The copied and closed values of each object in a list, by name.

        A value that every object has is set in ``found`` to the likeliest word or number near the others that fits; if none is
        likely enough, the values of the object are removed there.
        """
        parts = {number: self.copied[number - 1] for number in numbers}
        needed = {one.within[1] for one in parts.values() if one.blank == "never" or one.given}
        values = sorted(((number, *own) for number in numbers for own in found[number]), key=lambda own: own[1])
        spots = [Spot(first, last, parts[number].within[1]) for number, first, last, _ in values]
        objects, taken = [], [(first, last) for _, first, last, _ in values]
        groups = grouped(spots, marked_words(text), parts[numbers[0]].grouping or Grouping())
        for own in groups:
            members = [values[i] for i in own]
            for name in sorted(needed - {spots[i].name for i in own}):
                others = [spot for i, spot in enumerate(taken) if i not in own]
                low = max((last + 1 for _, last in others if last < taken[own[0]][0]), default=0)
                high = min((first for first, _ in others if first > taken[own[-1]][1]), default=len(table))
                space = {n for n in range(low, high) if not any(first <= n <= last for first, last in taken)}
                member = self._likeliest(text, table, space, [n for n in numbers if parts[n].within[1] == name])
                if member is None:
                    break
                members.append(member)
                taken.append(member[1:3])
                found[member[0]].append(member[1:])
                found[member[0]].sort(key=lambda span: span[0])
            if needed <= {parts[number].within[1] for number, *_ in members}:
                beside = [parts[number].given for number, *_ in members]
                copies = {parts[number].within[1]: value for number, _, _, value in members}
                objects.append(copies | {name: value for given in beside for name, value in given})
                continue
            alone = [spots[i][:2] for i in own if sum(i in group for group in groups) == 1]
            for number, first, last, _ in members:
                # Others may share a value of an object that is left out.
                if (first, last) in alone or (first, last) not in [spot[:2] for spot in spots]:
                    found[number][:] = [one for one in found[number] if one[:2] != (first, last)]
        return objects

    def _likeliest(self, text: str, table: Floats, space: set[int], numbers: Sequence[int]) -> tuple[int, int, int, Any] | None:
        """The likeliest word or number in some words that is a value of one of the parts: part, first and last word, value."""
        pairs = []
        for number in numbers:
            lead = table[:, number] - table[:, 0]
            units = [
                unit for unit in _units(text, self.copied[number - 1].type) if space.issuperset(range(unit[0], unit[1] + 1))
            ]
            pairs += [(-float(lead[first : last + 1].mean()), number, (first, last)) for first, last in units]
        for lost, number, unit in sorted(pairs):
            if -lost < _LEAST_LEAD:
                break
            for found in _read(text, [unit], self.copied[number - 1], self._fits[number - 1]):
                return (number, *found)
        return None

    @cached_property
    def _around(self) -> list[tuple[int, ...]]:
        """For each copied part, the closed fields that say whether the optional objects around it are there."""
        pairs = zip(self._root.fields(""), around(self._root), strict=True)
        return [outer for one, outer in pairs if isinstance(one, CopiedField)]

    def _values(
        self,
        found: Mapping[int, Sequence[tuple[int, int, Any]]],
        objects: Mapping[int, list[dict[str, Any]]],
        closed: Sequence[int],
    ) -> Iterator[Any]:
        """A row's values of all fields in the schema's order; the first part of a list of objects comes with all of these."""
        chosen, number = iter(self.closed.values(closed)), 0
        for one in self._root.fields(""):
            if isinstance(one, ClosedField):
                yield next(chosen)
                continue
            number += 1
            if one.grouping is not None:
                yield objects.get(number, [])
                continue
            values = [value for _, _, value in found[number]]
            if self.schemas[number - 1].get("uniqueItems"):
                values = list(dict.fromkeys(values))
            # The objects of a list are sorted by their places.
            yield [(first, value) for first, _, value in found[number]] if one.within[1] else values

    @property
    def needs_validator(self) -> bool:
        """Whether the schema of a copied part has keywords that only the package jsonschema_rs validates, such as a pattern."""
        return not all(is_simple(_bounds_of(schema)) for schema in self.schemas)

    @cached_property
    def _fits(self) -> tuple[Callable[[Any], bool], ...]:
        """Whether a value fits the schema of a copied part, for each part; a schema may bound lengths, for example."""
        return tuple(_check_of(one, schema) for one, schema in zip(self.copied, self.schemas, strict=True))


def chained(fields: AnswerFields, chain: Chain | None) -> AnswerFields:
    """Fields that are answered with a chain, if they are tags; None leaves them."""
    return replace(fields, chain=chain) if isinstance(fields, Tags) and chain is not None else fields


def answer_fields(schema: Mapping[str, Any] | None, copied: Sequence[CopiedField] = ()) -> AnswerFields | None:
    """The fields by which a JSON output is read off hidden states, some of which are ``copied``; None if it has other parts."""
    if not copied:
        return closed_fields(schema)
    schemas = {(one.path, one.given): part for one, part in copied_parts(schema or {}, "", required=True)}
    if not schemas.keys() >= {(one.path, one.given) for one in copied}:
        return None
    root = node_of(schema or {}, copied)
    if root is None:
        return None
    fields = tuple(root.fields(""))
    parts = tuple(one for one in fields if isinstance(one, CopiedField))
    closed = ClosedFields(tuple(one for one in fields if isinstance(one, ClosedField)), root)
    found = Tags(parts, tuple(schemas[one.path, one.given] for one in parts), closed, root)
    # Names with dots may give two parts one path.
    alike = len(found.shown) > len(set(found.shown)) or len(found.names) > len(set(found.names))
    return found if parts and not alike and len(found.names) <= MOST_VALUES else None


def copied_parts(schema: Mapping[str, Any], path: str, *, required: bool) -> Iterator[tuple[CopiedField, Mapping[str, Any]]]:
    """The parts of a schema that could be copied, with their schemas: open texts and numbers, and lists of such."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and schema.get("type", "object") == "object":
        for name, part in properties.items():
            if isinstance(part, Mapping):
                inner = f"{path}.{name}" if path else str(name)
                yield from copied_parts(part, inner, required=name in schema.get("required", ()))
        return
    if node_of(schema) is not None:
        return
    options = schema.get("anyOf", [schema])
    kept = [one for one in options if isinstance(one, Mapping) and one.get("type") != "null"]
    lists = [one for one in kept if one.get("type") == "array"]
    items = [one["items"] for one in lists if isinstance(one.get("items"), Mapping) and not one.get("minItems")]
    single = [one for one in kept if one.get("type") != "array"]
    if len(items) == len(lists) == 1 and not single and "properties" in items[0]:
        yield from _object_parts(items[0], path, int(lists[0].get("maxItems", MOST_VALUES)), required=required)
        return
    types = {_copied_type(one) for one in (*single, *items)}
    if len(items) != len(lists) or len(lists) > 1 or len(single) > 1 or len(types) != 1 or (type_ := types.pop()) is None:
        return
    most = int(lists[0].get("maxItems", MOST_VALUES)) if lists else 1
    if most < 1:
        return
    # Brackets mark a list, also in the name of a part that is none.
    if single and path and "[]" not in path:
        yield CopiedField(path, type_, "never" if required else "absent", most), schema
    elif not single:
        yield CopiedField(f"{path}[]", type_, "empty" if required else "absent", most), schema


def _object_parts(
    items: Mapping[str, Any], path: str, most: int, *, required: bool
) -> Iterator[tuple[CopiedField, Mapping[str, Any]]]:
    """The parts of a list of objects: each open property, one of them for each combination of the closed values.

    Closed values may be absent, and if there are several open ones, these too, but not the one that is known with the closed
    values.
    """
    properties, always = items["properties"], items.get("required", ())
    if not isinstance(properties, Mapping) or not all(isinstance(part, Mapping) for part in properties.values()) or most < 1:
        return
    closed = {name: single_values_of(part) for name, part in properties.items()}
    values = {name: own if name in always else (*own, ABSENT) for name, own in closed.items() if own is not None}
    open_ = {name: part for name, part in properties.items() if name not in values}
    if not open_ or (len(open_) == 1 and not set(always) >= set(open_)) or prod(map(len, values.values())) > _MOST_KINDS:
        return
    kinds = [tuple(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    blank: Blank = "empty" if required else "absent"
    if len(open_) == 1:
        ((name, part),) = open_.items()
        if (type_ := _copied_type(part)) is not None:
            yield from ((CopiedField(f"{path}[].{name}", type_, blank, most, given), part) for given in kinds)
        return
    types = {name: _type_beside_null(part) for name, part in open_.items()}
    heads = [name for name in _mains_of(items) if name in open_] if values else list(open_)
    # Brackets mark a list, also in the name of a property.
    if not heads or None in types.values() or any("[]" in name for name in open_):
        return
    grouping = Grouping("order", tuple(open_), blank="empty" if required else "absent")
    for name, part in open_.items():
        one = CopiedField(
            f"{path}[].{name}", str(types[name]), "never" if name in always else "absent", most, grouping=grouping
        )
        for given in kinds if name == heads[0] else [()]:
            yield replace(one, given=given), part


def _mains_of(items: Mapping[str, Any]) -> list[str]:
    """The open properties that every object has, by the schema of a list's items."""
    always = items.get("required", ())
    parts = {name: part for name, part in items["properties"].items() if name in always and single_values_of(part) is None}
    return [name for name, part in parts.items() if not any("null" in _types(option) for option in options_of(part))]


def _types(schema: Mapping[str, Any]) -> list[Any]:
    types = schema.get("type")
    return types if isinstance(types, list) else [types]


def _type_beside_null(schema: Mapping[str, Any]) -> str | None:
    """The type of texts or numbers, also beside the option null; None for any other schema."""
    found = [_copied_type(option) for option in options_of(schema) if option.get("type") != "null"]
    return found[0] if len(found) == 1 else None


def _copied_type(schema: Mapping[str, Any]) -> str | None:
    """The type of texts or numbers, which may also be null; None for any other schema."""
    names = [name for name in _types(schema) if name != "null"]
    closed = single_values_of(schema) is not None
    return names[0] if len(names) == 1 and names[0] in ("string", "integer", "number") and not closed else None


def owned_values(value: Any, one: CopiedField) -> list[tuple[Any, Owner | None]]:
    """The values of a copied part in a JSON value, each with its object."""
    place, name = one.within
    found = value_at(value, place if name else one.path)
    listed = found if isinstance(found, list) else [found]
    if not name:
        return [(item, None) for item in listed if item is not ABSENT and item is not None and item != ""]
    objects = [(i, item) for i, item in enumerate(listed) if isinstance(item, Mapping) and name in item]
    own = [(i, item) for i, item in objects if one.is_of(item)]
    if one.grouping is None:
        return [(item[name], Owner(place, i, alone=True)) for i, item in own]
    return [(item[name], Owner(place, i)) for i, item in own if item[name] is not None and item[name] != ""]


def placed_values(text: str, value: Any, parts: Sequence[CopiedField]) -> list[Placed]:
    """The values of all copied parts of a JSON value with their places in the text."""
    owned = [owned_values(value, one) for one in parts]
    values, owners = ([[pair[side] for pair in own] for own in owned] for side in (0, 1))
    return placed(text, values, owners)


def blanks_of(value: Any, one: CopiedField) -> list[Any]:
    """What the objects of a list that lack this part's value have instead."""
    place, name = one.within
    listed = value_at(value, place)
    objects = [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    own = filter(one.is_of, objects)
    return [found for item in own if (found := item.get(name, ABSENT)) is ABSENT or found is None or found == ""]


def value_at(value: Any, path: str) -> Any:
    """The value at a path of property names, which may itself have dots; :data:`ABSENT` if there is none."""
    path = path.removesuffix("[]")
    if not path:
        return value
    if not isinstance(value, Mapping):
        return ABSENT
    if path in value:
        return value[path]
    for name in value:
        if path.startswith(f"{name}.") and (found := value_at(value[name], path[len(name) + 1 :])) is not ABSENT:
            return found
    return ABSENT


def _read(
    text: str, spans: Iterable[tuple[int, int]], one: CopiedField, fits: Callable[[Any], bool]
) -> Iterator[tuple[int, int, Any]]:
    """First word, last word and value of words that are a value of a part and fit."""
    words = words_of(text)
    for first, last in spans:
        value = _typed(text[words[first][0] : words[last][1]], one.type)
        if isinstance(value, str):
            value = spelled(value, one.spelling)
        if value is not None and fits(value):
            yield first, last, value


def _units(text: str, type_: str) -> list[tuple[int, int]]:
    """First and last word of each word of a text, or of each number in it."""
    words = words_of(text)
    if type_ == "string":
        return [(place, place) for place in range(len(words))]
    starts = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number for number, (_, end) in enumerate(words)}
    return [(starts[start], ends[end]) for start, end in places_of_numbers(text) if start in starts and end in ends]


def _typed(text: str, type_: str) -> Any:
    """A copied text as a value of a type; None if it is none."""
    if type_ == "string":
        return text
    number = None if "e" in text.lower() else parse_number(text)
    if number is None or number == number.to_integral_value():
        return None if number is None else int(number)
    return float(number) if type_ == "number" else None


def _check_of(one: CopiedField, schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether a value, or a list of it alone, is valid; always, if the schema refers to others."""
    if is_simple(_bounds_of(schema)):
        return lambda value: suits([value] if one.many else value, _bounds_of(schema))
    if schema_problem(schema):
        return lambda value: True
    check = Validator(schema)
    return lambda value: check([value] if one.many else value)


def _bounds_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a schema that bounds single values; one item of a list is always unique."""
    return {name: part for name, part in schema.items() if name != "uniqueItems"}
