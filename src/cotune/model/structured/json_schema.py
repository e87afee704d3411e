"""Closed schemas for constrained decoding: they allow nothing that answers do not contain.

Objects have the properties that the schema names and no others, and numbers are bounded. Without bounds the library would write
exponents, and near an excluded bound it would write more digits than a double can represent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from cotune.errors import InputError
from cotune.task.values.json_value import json_text

DIGITS = 15
"""Maximum number of digits before the point, unless a bound has more: the number of digits a double can represent."""
BOUND = 10**18
"""Maximum absolute value of a bound."""
_SAYS_WHAT = {"type", "$ref", "anyOf", "oneOf", "enum", "const", "properties", "items"}
_BEYOND = {"allOf", "multipleOf", "patternProperties", "prefixItems"}
"""Keywords that the library enforces but that :func:`closed_schema` cannot close."""
_UNSAID = re.compile(r"(?<!\\)(?:\\\\)*\\u00|\x7f")
"""Control characters in JSON, which answers do not contain; the library would drop them from a value and write the rest."""
Schema = dict[str, Any]


def closed_schema(schema: Mapping[str, Any]) -> Schema:
    """The closed form of a valid schema; every text that it allows is valid under ``schema``.

    Raises:
        InputError: a part does not say what is allowed; the message names the place.
    """
    closed: Schema = json.loads(json_text(schema))
    for where, part in parts_of(closed):
        kinds = part.get("type", "object" if "properties" in part else "array" if "items" in part else ())
        kinds = [kinds] if isinstance(kinds, str) else kinds
        for name in _BEYOND & part.keys():
            raise _refusal(f"the keyword {name!r} cannot be enforced", where, "Leave it out, or list the values in enum.")
        if not part.keys() & _SAYS_WHAT:
            raise _refusal("the schema names no type", where, "Name a type.")
        if "array" in kinds and "items" not in part and part.get("maxItems") != 0:
            raise _refusal("an array's items are not described", where, "Add items.")
        for name in {"enum", "const"} & part.keys():
            allowed = part[name] if name == "enum" else [part[name]]
            values = [value for value in allowed if not _UNSAID.search(json_text(value))]
            if not values:
                raise _refusal("none of its values can be generated", where, "Give at least one without control characters.")
            if name == "enum":
                part[name] = values
        if "object" in kinds:
            part["additionalProperties"] = False
        if kinds and "enum" not in part and "const" not in part:
            part["type"] = kinds
            if {"number", "integer"} & set(kinds):
                _bound(part, where)
    return closed


def parts_of(schema: Any, where: str = "#") -> Iterator[tuple[str, Schema]]:
    """The schema and its subschemas with their places, outer ones first.

    Raises:
        InputError: if a part is no object; the message names the place.
    """
    if not isinstance(schema, dict):
        raise _refusal("the schema must be a JSON object that says what is allowed", where, "Name a type.")
    yield where, schema
    for name in ("properties", "$defs", "definitions", "anyOf", "oneOf"):
        inner = schema.get(name, {})
        for key, part in inner.items() if isinstance(inner, dict) else enumerate(inner):
            yield from parts_of(part, f"{where}/{name}/{key}")
    if "items" in schema:
        yield from parts_of(schema["items"], f"{where}/items")


_CHOICES = {"anyOf", "oneOf", "$ref", "enum", "const"}


def with_shortened_bounds(schema: Mapping[str, Any]) -> Schema:
    """A closed schema for llguidance, which also allows the decimals that a bound begins with.

    Under a maximum of 0.25 the library writes 0.20 but not 0.2, and likewise above a negative minimum. Such decimals are listed
    as an alternative. Parts that combine bounds with another choice, such as ``enum`` or ``anyOf``, are left as they are.
    """
    extended: Schema = json.loads(json_text(schema))
    for _, part in [*parts_of(extended)]:
        if "number" in part.get("type", ()) and "minimum" in part and not part.keys() & _CHOICES:
            low, high = part["minimum"], part["maximum"]
            begun = [*_beginnings(low), *_beginnings(high)]
            if values := [value for value in dict.fromkeys(begun) if low <= value <= high]:
                # References lead to definitions at the root.
                inner = {name: part.pop(name) for name in [*part] if name not in {"$defs", "definitions"}}
                part["anyOf"] = [inner, {"enum": values}]
    return extended


def _beginnings(bound: float) -> list[float]:
    """Decimals with which a bound's digits begin, such as 0.1 and 0.12 of 0.125."""
    whole, _, fraction = format(Decimal(str(bound)), "f").partition(".")
    return [float(f"{whole}.{fraction[:count]}") for count in range(1, len(fraction))]


def _bound(part: Schema, where: str) -> None:
    """Set inclusive bounds for the numbers of a part."""
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    bounds = [part[name] for name in names if name in part]
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) <= BOUND for bound in bounds):
        raise _refusal("a bound is not a number, or is too large", where, f"Leave it out, or stay within {BOUND:.0e}.")
    most = min(BOUND, 10 ** max([DIGITS, *map(_digits, bounds)]) - 1)
    low, high = part.get("minimum", -most), part.get("maximum", most)
    whole = "number" not in part["type"]
    if (above := part.pop("exclusiveMinimum", None)) is not None:
        low = max(low, math.floor(above) + 1 if whole else above + _step(above))
    if (below := part.pop("exclusiveMaximum", None)) is not None:
        high = min(high, math.ceil(below) - 1 if whole else below - _step(below))
    part |= {"minimum": low, "maximum": high}


def _digits(bound: float) -> int:
    return len(str(abs(int(bound))))


def _step(bound: float) -> float:
    """A distance from a bound that doubles, and their decimal texts, can represent."""
    return float(10.0 ** (_digits(bound) - DIGITS))


def _refusal(what: str, where: str, hint: str) -> InputError:
    return InputError(what, where=f"schema, {where}", hint=hint)
