"""Copied values: the parts of a JSON output that stand in the row's text, read off by a tag on each word.

Each word has two fields, the part of the output that it belongs to and whether it continues the value of the word before, so
that every value is a run of words (the tags of Ramshaw and Marcus, 1995, with the name of the part apart from the boundary).
Closed parts are read off the state of the whole text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.closed import (
    ABSENT,
    MOST_VALUES,
    AnswerFields,
    Blank,
    ClosedField,
    ClosedFields,
    CopiedField,
    Node,
    closed_fields,
    node_of,
    single_values_of,
)
from cotune.task.values.json_value import NO_JSON, json_in, json_text
from cotune.task.words import words_of

Floats = NDArray[np.float64]

_LEAST_COPIED, _LEAST_EACH = 0.9, 0.75
"""Minimum share of values that stand in their text, over all parts and of each part. Values that do not are never answered."""
_MOST_KINDS = 64
"""Maximum number of combinations of closed values in the objects of a list, each of which is a part that is tagged."""
_NEVER = -1e9


@dataclass(frozen=True)
class Tags:
    """The fields of an output of which some parts are copied and all others are closed.

    Attributes:
        copied: the copied parts, in the schema's order.
        closed: the closed fields.
    """

    words: ClassVar[bool] = True

    copied: tuple[CopiedField, ...]
    closed: ClosedFields
    _root: Node = field(repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The tags: no part or one of them, a value's first word or a further one; then the values of closed fields."""
        return ("no part", *(f"in {one.name}" for one in self.copied), "first word", "further word", *self.closed.names)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return (1 + len(self.copied), 2, *self.closed.sizes)

    @cached_property
    def _known(self) -> dict[tuple[str, str], NDArray[np.int64] | None]:
        """Places so far: the same rows are asked for with every prompt."""
        return {}

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
        closed, copied = None if value is NO_JSON else self.closed.places_of(value), self.copied_in(value)
        if closed is None or copied is None:
            return None
        parts, count = 1 + len(self.copied), len(words_of(text))
        found = np.full((count + 1, 2 + closed.shape[1]), -1, dtype=np.int64)
        # The whole text is in no part.
        found[:, 0], found[:, 1], found[-1, 2:] = 0, parts, parts + 2 + closed
        for part, first, last in found_in(text, copied)[0]:
            found[first : last + 1, 0] = 1 + part
            found[first + 1 : last + 1, 1] = parts + 1
        return found

    def copied_in(self, value: Any) -> list[list[Any]] | None:
        """The values of each copied part in a JSON value; None if it has another form, or a closed part has another value."""
        if value is NO_JSON or self.closed.places_of(value) is None:
            return None
        return list(self._root.copied(value))

    def answers(self, log_probs: Floats, texts: Sequence[str]) -> tuple[str, ...]:
        """The likeliest values, given ``[words and rows, values]`` log-probabilities, row by row, and the rows' texts."""
        counts = np.array([len(words_of(text)) for text in texts], dtype=np.int64)
        ends, first_closed = np.cumsum(counts + 1), 3 + len(self.copied)
        closed = np.zeros((len(texts), 0), dtype=np.int64)
        if self.closed.fields:
            closed = self.closed.chosen(log_probs[ends - 1, first_closed:])
        tables = [log_probs[end - 1 - count : end - 1, :first_closed] for end, count in zip(ends, counts, strict=True)]
        paths = _likeliest(tables, len(self.copied))
        return tuple(
            json_text(self._root.written(self._values(text, table, path, chosen)))
            for text, table, path, chosen in zip(texts, tables, paths, closed.tolist(), strict=True)
        )

    def _values(self, text: str, table: Floats, path: NDArray[np.int64], closed: Sequence[int]) -> Iterator[Any]:
        """A row's values of all fields in the schema's order."""
        spans, words = _spans_of(path, len(self.copied)), words_of(text)
        chosen, number = iter(self.closed.values(closed)), 0
        for one in self._root.fields(""):
            if isinstance(one, ClosedField):
                yield next(chosen)
                continue
            number += 1
            own = spans[number]
            if not own and one.blank == "never" and len(words):
                likeliest = int((table[:, number] - table[:, 0]).argmax())
                own = [(likeliest, likeliest)]
            if one.most == 1 and not one.within[1]:
                # The clearest first, of which the first that can be read is taken.
                own = sorted(own, key=lambda span: -float(table[span[0] : span[1] + 1, number].mean()))
            read = [(first, _typed(text[words[first][0] : words[last][1]], one.type)) for first, last in own]
            found = [(place, value) for place, value in read if value is not None]
            # The objects of a list are sorted by their places.
            yield found if one.within[1] else [value for _, value in found]


def answer_fields(schema: Mapping[str, Any] | None, copied: Sequence[CopiedField] = ()) -> AnswerFields | None:
    """The fields by which a JSON output is read off hidden states, some of which are ``copied``; None if it has other parts."""
    if not copied:
        return closed_fields(schema)
    root = node_of(schema or {}, copied)
    if root is None:
        return None
    fields = tuple(root.fields(""))
    parts = tuple(one for one in fields if isinstance(one, CopiedField))
    found = Tags(parts, ClosedFields(tuple(one for one in fields if isinstance(one, ClosedField)), root), root)
    return found if parts and len(found.names) <= MOST_VALUES else None


def copied_fields(schema: Mapping[str, Any] | None, outputs: Sequence[str], texts: Sequence[str]) -> tuple[CopiedField, ...]:
    """The parts of labelled outputs whose values stand in the rows' texts; empty unless all parts that are not closed do."""
    fields = answer_fields(schema, tuple(_open_parts(schema or {}, "", required=True)))
    if not isinstance(fields, Tags):
        return ()
    blanks = [Counter[Blank]() for _ in fields.copied]
    hits, seen = Counter[str](), Counter[str]()
    for output, text in zip(outputs, texts, strict=True):
        value = json_in(output)
        if (listed := fields.copied_in(value)) is None:
            continue
        for one, own, blank in zip(fields.copied, listed, blanks, strict=True):
            seen[one.path] += len(own)
            if not own:
                blank[_blank_of(_at(value, one.within[0] if one.within[1] else one.path))] += 1
        for part, _, _ in found_in(text, listed)[0]:
            hits[fields.copied[part].path] += 1
    total = seen.total()
    # A single value may be missing wherever there are few.
    each = all(hits[path] + 1 >= _LEAST_EACH * count for path, count in seen.items())
    if not total or hits.total() < _LEAST_COPIED * total or not each:
        return ()
    return tuple(
        replace(one, blank=blank.most_common(1)[0][0] if blank else one.blank)
        for one, blank in zip(fields.copied, blanks, strict=True)
    )


def _blank_of(value: Any) -> Blank:
    return "absent" if value is ABSENT else "null" if value is None else "empty"


def found_in(text: str, values: Sequence[Sequence[Any]]) -> tuple[list[tuple[int, int, int]], int]:
    """Where the values of several parts stand in a text: part, first and last word; and how many do not.

    A value must begin and end with a word, and no two values share one. The longest are placed first, each at its first place.
    """
    words = words_of(text)
    starts = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number for number, (_, end) in enumerate(words)}
    found: list[tuple[int, int, int]] = []
    taken = np.zeros(len(words), dtype=bool)
    wanted = [(value if isinstance(value, str) else json_text(value), part) for part, own in enumerate(values) for value in own]
    for value, part in sorted(wanted, key=lambda pair: -len(pair[0])):
        place = text.find(value) if value else -1
        while place >= 0:
            first, last = starts.get(place), ends.get(place + len(value))
            if first is not None and last is not None and not taken[first : last + 1].any():
                taken[first : last + 1] = True
                found.append((part, first, last))
                break
            place = text.find(value, place + 1)
    return sorted(found, key=lambda span: span[1]), len(wanted) - len(found)


def _open_parts(schema: Mapping[str, Any], path: str, *, required: bool) -> Iterator[CopiedField]:
    """The parts of a schema that could be copied: texts and numbers that are not closed, and lists of such."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and schema.get("type", "object") == "object":
        for name, part in properties.items():
            if isinstance(part, Mapping):
                inner = f"{path}.{name}" if path else str(name)
                yield from _open_parts(part, inner, required=name in schema.get("required", ()))
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
    if single and path:
        yield CopiedField(path, type_, "never" if required else "absent", most)
    elif not single:
        yield CopiedField(f"{path}[]", type_, "empty" if required else "absent", most)


def _object_parts(items: Mapping[str, Any], path: str, most: int, *, required: bool) -> Iterator[CopiedField]:
    """The parts of a list of objects, each of which has one open value: a part for each combination of the closed values."""
    properties = items["properties"]
    if not isinstance(properties, Mapping) or set(properties) != set(items.get("required", ())):
        return
    closed = {name: single_values_of(part) for name, part in properties.items() if isinstance(part, Mapping)}
    values = {name: own for name, own in closed.items() if own is not None}
    open_ = [name for name in properties if name not in values]
    if len(open_) != 1 or prod(map(len, values.values())) > _MOST_KINDS:
        return
    if (type_ := _copied_type(properties[open_[0]])) is None:
        return
    for chosen in product(*values.values()):
        given = tuple(zip(values, chosen, strict=True))
        yield CopiedField(f"{path}[].{open_[0]}", type_, "empty" if required else "absent", most, given)


def _copied_type(schema: Mapping[str, Any]) -> str | None:
    """The type of texts or numbers, which may also be null; None for any other schema."""
    types = schema.get("type")
    names = [name for name in (types if isinstance(types, list) else [types]) if name != "null"]
    closed = single_values_of(schema) is not None
    return names[0] if len(names) == 1 and names[0] in ("string", "integer", "number") and not closed else None


def _at(value: Any, path: str) -> Any:
    """The value at a path of property names, which may itself have dots; :data:`ABSENT` if there is none."""
    path = path.removesuffix("[]")
    if not path:
        return value
    if not isinstance(value, Mapping):
        return ABSENT
    if path in value:
        return value[path]
    for name in value:
        if path.startswith(f"{name}.") and (found := _at(value[name], path[len(name) + 1 :])) is not ABSENT:
            return found
    return ABSENT


def _typed(text: str, type_: str) -> Any:
    """A copied text as a value of a type; None if it is none."""
    if type_ == "string":
        return text
    value = json_in(text)
    fits = type(value) is int or (type_ == "number" and type(value) is float)
    return value if fits and json_text(value) == text else None


def _likeliest(tables: Sequence[Floats], parts: int) -> list[NDArray[np.int64]]:
    """The likeliest tags of each row's words: 0 for no part, then the first words of all parts, then their further words.

    A further word follows a word of the same part (Viterbi's algorithm, all rows at once). ``tables`` are log-probabilities
    ``[words, 1 + parts + 2]`` of each row.
    """
    lengths = np.array([len(table) for table in tables], dtype=np.int64)
    most, rows = int(lengths.max(initial=0)), len(tables)
    padded = np.zeros((most, rows, parts + 3))
    for row, table in enumerate(tables):
        padded[: len(table), row] = table
    first, further = padded[..., -2:-1], padded[..., -1:]
    scores = np.concatenate([padded[..., :1] + first, padded[..., 1:-2] + first, padded[..., 1:-2] + further], axis=-1)
    before = np.zeros((most, rows), dtype=np.int64)
    follows = np.zeros((most, rows, parts), dtype=bool)
    lines = np.arange(rows)
    last = np.zeros(rows, dtype=np.int64)
    best = np.full((rows, 1 + 2 * parts), _NEVER)
    for step in range(most):
        if step == 0:
            best = scores[0].copy()
            best[:, 1 + parts :] = _NEVER
        else:
            begun, inside = best[:, 1 : 1 + parts], best[:, 1 + parts :]
            before[step], follows[step] = best.argmax(axis=1), inside > begun
            top = best[lines, before[step]][:, None]
            best = np.concatenate([np.repeat(top, 1 + parts, axis=1), np.maximum(begun, inside)], axis=1) + scores[step]
        last = np.where(lengths == step + 1, best.argmax(axis=1), last)
    paths = np.zeros((rows, most), dtype=np.int64)
    tag = last
    for step in range(most - 1, -1, -1):
        active = step < lengths
        paths[active, step] = tag[active]
        if step:
            part = np.maximum(tag - 1 - parts, 0)
            inner = np.where(follows[step, lines, part] if parts else False, 1 + parts + part, 1 + part)
            tag = np.where(active, np.where(tag > parts, inner, before[step]), tag)
    return [path[:length] for path, length in zip(paths, lengths, strict=True)]


def _spans_of(path: NDArray[np.int64], parts: int) -> dict[int, list[tuple[int, int]]]:
    """First and last word of each part's values, in order; parts count from 1."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for word, tag in enumerate(path.tolist()):
        if tag > parts:
            own = found[tag - parts]
            own[-1] = (own[-1][0], word)
        elif tag:
            found[tag].append((word, word))
    return found
