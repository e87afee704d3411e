"""JSON values in data and answers: parsing, canonical text, and leaves."""

from __future__ import annotations

import enum
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn

from cotune.task.reading.cells import has_half_character
from cotune.task.values.number import number_text


class _NoJson(enum.Enum):
    NO_JSON = "no JSON"


NO_JSON: Final = _NoJson.NO_JSON
FENCE = re.compile(r"```[A-Za-z]*\s*\n?(.*?)```", re.DOTALL)
"""A fenced block of Markdown."""
_MOST_TRIES = 20
DEEPEST = 128
"""Deepest nesting of lists and objects in a JSON value."""
_UNLIKE_OTHERS = re.compile(r"\d(?:\.0\b|[eE][-+]?\d)")
"""Numbers with a simpler form, such as ``1.0`` and ``1e-05``, or texts that look like such numbers."""

Leaf = tuple[str, str]
"""Path of a value, such as ``slots.artist`` or ``guests[]``, and the value as JSON text."""


def parse_json(text: str) -> Any:
    """Parse a text as JSON.

    Raises:
        ValueError: if it is not JSON, contains NaN, infinity, a lone surrogate or a duplicate key, or is nested too deeply.
    """
    try:
        value = _STRICT.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    return _sound(value, text)


def json_in(answer: str) -> Any:
    """The JSON value of an answer: the answer itself, the content of its code fence, else its first object or list.

    :data:`NO_JSON` if there is none.
    """
    fenced = FENCE.search(answer)
    for text in (answer, *([fenced[1]] if fenced else [])):
        try:
            return parse_json(text)
        except ValueError:
            continue
    for match in list(re.finditer(r"[{\[]", answer))[:_MOST_TRIES]:
        try:
            value, end = _LENIENT.raw_decode(answer, match.start())
            return _sound(value, answer[match.start() : end])
        except (ValueError, RecursionError):
            continue
    return NO_JSON


def json_text(value: Any) -> str:
    """Canonical text of a JSON value: one line, without ASCII escapes, and the same digits for equal numbers.

    Numbers are written as :func:`cotune.task.values.number.number_text` does: ``1``, not ``1.0``, ``0.00001``, not ``1e-05``.
    """
    text = _ENCODER.encode(value)
    return _plain_text(value) if _UNLIKE_OTHERS.search(text) else text


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_ENCODER.encode(name)}: {_plain_text(v)}" for name, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_plain_text, value)) + "]"
    # From here on the digits of a double differ from those of its exact integer value.
    if isinstance(value, float) and abs(value) < 2**53:
        return number_text(Decimal(float.__repr__(value)))
    return _ENCODER.encode(value)


def single_values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All single values (leaves) of a JSON value with their paths; items of a list share the path ``name[]``.

    Empty objects and lists have none.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from single_values(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from single_values(inner, f"{path}[]")
    else:
        yield path, value


def leaf_counts(value: Any) -> Counter[Leaf]:
    """Counts of the :func:`single_values` as JSON texts; empty for :data:`NO_JSON`.

    White space in texts is normalized, and ``1.0`` equals ``1``.
    """
    return Counter() if value is NO_JSON else Counter((path, _leaf_text(single)) for path, single in single_values(value))


def same_json(left: Any, right: Any) -> bool:
    """Whether two values are equal, in any order of keys; the order of lists matters."""
    return left is not NO_JSON and right is not NO_JSON and _plain(left) == _plain(right)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return _leaf_text(value)


def _leaf_text(value: Any) -> str:
    if isinstance(value, str):
        value = " ".join(value.split())
    return json_text(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {doubled!r} is given twice in one object")
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value


# Made once: the functions of ``json`` make one for each call with arguments, which takes as long as a short value.
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
_LENIENT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False)

_TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"


def _sound(value: Any, text: str) -> Any:
    """The value; raises ValueError if its text could not be written, or if it is nested too deeply."""
    if text.count("[") + text.count("{") > DEEPEST:
        level, inside = 0, [value]
        while nested := [inner for inner in inside if isinstance(inner, (dict, list))]:
            level += 1
            if level > DEEPEST:
                raise ValueError(_TOO_DEEP)
            inside = [inner for outer in nested for inner in (outer.values() if isinstance(outer, dict) else outer)]
    if "\\u" in text and has_half_character(_ENCODER.encode(value)):
        raise ValueError("there is half a character (a lone surrogate) in it")
    return value


def is_json(text: str) -> bool:
    """Whether a text is valid JSON."""
    try:
        parse_json(text)
    except ValueError:
        return False
    return True
