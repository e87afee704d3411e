"""Checks whether the grammar can generate a right answer."""

from __future__ import annotations

import json
import re
from typing import Any

from cotune.errors import shortened
from cotune.model.structured.grammar import DECIMALS
from cotune.model.structured.json_schema import DIGITS
from cotune.model.structured.limits import grammar_of
from cotune.task.values.json_value import json_text, parse_json, single_values
from cotune.task.values.output import Output
from cotune.task.values.schema import Validator

_CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write as escapes such as ``\\u0000``, which answers do not use."""


class Writable:
    """Checks whether right answers can be generated.

    Args:
        where: source of the schema, for errors.

    Raises:
        InputError: if the schema cannot be enforced during generation.
    """

    def __init__(self, output: Output, where: str = "schema") -> None:
        self._grammar = grammar_of(output, where)
        self._whole = output.constraint is not None and output.constraint.integer
        plain = self._grammar.plain if self._grammar is not None else None
        self._check = None if plain is None else Validator(json.loads(plain))
        self._known: dict[str, str] = {}

    def problem(self, answer: str) -> str:
        """Why the grammar cannot generate the (normalized) answer, prefixed by the field; empty if it can."""
        if self._grammar is None:
            return ""
        if answer not in self._known:
            passes = self._grammar.accepts(answer)
            self._known[answer] = "" if passes else self._reason(answer)
        return self._known[answer]

    def _reason(self, answer: str) -> str:
        if self._check is None:
            if self._whole and "." in answer:
                return f"{shortened(answer)} has a fraction, and every output of train and dev is whole"
            return _long(answer)
        value = parse_json(answer)
        leaves = [(f"{path}: " if path else "", leaf) for path, leaf in single_values(value)]
        for place, leaf in leaves:
            if isinstance(leaf, str) and (control := _CONTROL.search(leaf)):
                return f"{place}it contains the control character U+{ord(control[0]):04X}"
        problem = self._check.problem(value)
        for place, leaf in leaves:
            # Near an excluded bound, fewer digits are written than elsewhere.
            if _is_long(leaf, DIGITS - 1 if place and problem.startswith(place) else DECIMALS):
                return place + _long(json_text(leaf))
        return shortened(problem, 160) or "it is not in the format of generated answers"


def _is_long(leaf: Any, decimals: int) -> bool:
    """Whether a number has more digits than the grammar allows, ``decimals`` of them behind the point."""
    if isinstance(leaf, bool) or not isinstance(leaf, int | float):
        return False
    whole, _, part = json_text(leaf).removeprefix("-").partition(".")
    return not (whole + part).isdigit() or len(whole) > DIGITS or len(part) > decimals


def _long(number: str) -> str:
    return f"{shortened(number)} has more digits than can be generated, {DIGITS} before the point and {DECIMALS} behind it"
