"""Closed fields: the parts of a JSON output that are each one of a few values, as its schema says.

An output all of whose parts are closed, such as ``{"urgent": true, "mood": "angry"}``, is a row of choices. These can be read
off a hidden state, each by its own linear map. Parts may also be copied from the row's text, see
:mod:`cotune.task.values.tags`. Any other JSON has to be generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.json_value import NO_JSON, json_in, json_text
from cotune.task.values.output_fields import ClosedField, FieldAnswers
from cotune.task.values.schema_tree import Node, Value, around, node_of

MOST_VALUES = 512
"""Maximum number of values over all fields. Each is a row of the read-out's weights, and each field is one more regression."""


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
    if root is None or isinstance(root, Value):
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
