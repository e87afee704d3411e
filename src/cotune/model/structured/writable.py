"""Right answers that the model could never write: what stands in them that the grammar of answers has no text for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cotune.errors import shortened
from cotune.model.structured.json_schema import DIGITS, decimals_of
from cotune.model.structured.json_terms import DECIMALS
from cotune.model.structured.limits import grammar_of
from cotune.task.values.json_value import json_text, parse_json, single_values
from cotune.task.values.output import Output
from cotune.task.values.schema import Validator

_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?")
_CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that a JSON text holds as ``\\u0000`` alone, which answers do not use."""


class Writable:
    """Says why right answers could never be written.

    The definition is the grammar's term, which takes some 10 microseconds a byte. So JSON is first held against the schema,
    which says nearly all, then its numbers and characters are looked at; only where a number is unusual the term decides.

    Args:
        output: the task's.
        where: its schema came from, for errors.

    Raises:
        InputError: the schema cannot be kept while writing.
    """

    def __init__(self, output: Output, where: str = "schema") -> None:
        self._grammar = grammar_of(output, where)
        self._whole = output.constraint is not None and output.constraint.integer
        plain = json.loads(self._grammar.plain) if self._grammar is not None and self._grammar.plain else None
        self._check = None if plain is None else Validator(plain)
        self._decimals = DECIMALS if plain is None else min(_decimals(plain), default=DECIMALS)
        self._known: dict[str, str] = {}

    def problem(self, answer: str) -> str:
        """Why an answer, in its one form, cannot be written, the field before it; empty where it can be."""
        if self._grammar is None:
            return ""
        if answer not in self._known:
            self._known[answer] = self._json_problem(answer) if self._check is not None else self._number_problem(answer)
        return self._known[answer]

    def _number_problem(self, answer: str) -> str:
        if self._passes(answer):
            return ""
        if self._whole and "." in answer:
            return f"{shortened(answer)} has a fraction, and every output of train and dev is whole"
        return _long(answer)

    def _json_problem(self, answer: str) -> str:
        value = parse_json(answer)
        assert self._check is not None
        if not self._check(value):
            return shortened(self._check.problem(value), 160)
        unusual = ""
        for path, leaf in single_values(value):
            place = f"{path}: " if path else ""
            if isinstance(leaf, str):
                if found := _CONTROL.search(leaf):
                    return f"{place}it holds the control character U+{ord(found[0]):04X}"
            elif self._is_unusual(leaf) and not unusual:
                unusual = place + _long(json_text(leaf))
        return unusual if unusual and not self._passes(answer) else ""

    def _is_unusual(self, leaf: Any) -> bool:
        """Whether a number may have more digits than are written."""
        if isinstance(leaf, bool) or not isinstance(leaf, (int, float)):
            return False
        found = _NUMBER.fullmatch(json_text(leaf))
        return found is None or len(found[1]) > DIGITS or len(found[2] or "") > self._decimals

    def _passes(self, answer: str) -> bool:
        assert self._grammar is not None
        term = self._grammar.term.after_all(answer.encode())
        return term is not None and term.nullable


def _long(number: str) -> str:
    return f"{shortened(number)} has more digits than are written, {DIGITS} before the point and {DECIMALS} behind it"


def _decimals(schema: Any) -> Iterator[int]:
    """Of each kind of number in a plain schema, how many it may have."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "number":
            yield decimals_of(schema)
        for name in ("items", "anyOf"):
            yield from _decimals(schema.get(name))
        for inner in schema["properties"].values() if schema.get("type") == "object" else ():
            yield from _decimals(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _decimals(inner)
