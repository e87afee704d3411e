"""The text of a cell and the field name of its header, in the same way for all files, frames and exports.

Exported classifiers contain a copy of this file, so it imports nothing of cotune.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

_FIELD_NAME = re.compile(r"[^\W\d]\w*\Z")
_HALF = re.compile("[\ud800-\udfff]")


class _Nested(enum.Enum):
    NESTED = "nested"


NESTED: Final = _Nested.NESTED


def cell_text(value: Any) -> str | _Nested | None:
    """The text of a cell.

    Numbers become their shortest exact text, booleans ``true`` and ``false``, dates ISO 8601; time spans and the intervals and
    periods of pandas are written as Python does. An empty text, None, NaN and a
    frame's missing value become None.

    Args:
        value: a Python or numpy scalar, or any other value in a file or frame.

    Returns:
        The text, None for an empty cell, or :data:`NESTED` for values that are no single text (lists, objects, bytes).
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        if type(value).__name__ in ("float16", "float32"):
            # As a double, 0.1 would become 0.10000000149011612.
            return None if math.isnan(value) else repr(float(str(value)))
        if type(value).__name__ == "datetime64":
            return None if (text := str(value)) == "NaT" else text
        value = value.item()
    if isinstance(value, str):
        return str(value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return None if math.isnan(value) else repr(value)
    if isinstance(value, decimal.Decimal):
        return None if value.is_nan() else format(value, "f")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, datetime.timedelta)):
        return str(value)
    # Scalars of pandas, such as the labels that pandas.cut makes.
    if type(value).__module__.split(".")[0] == "pandas" and type(value).__name__ in ("Interval", "Period"):
        return str(value)
    return NESTED


def input_text(value: Any) -> str | _Nested | None:
    """The text of a cell as an input shows it: a list as ``a, b``, an empty one as ``none``, an object or nested lists as JSON.

    Returns:
        The text, None for an empty cell, or :data:`NESTED` for values that JSON does not support, such as bytes.
    """
    text = cell_text(value)
    if text is not NESTED:
        return text
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if isinstance(value, (list, tuple)) and not any(cell_text(item) is NESTED for item in value):
        return ", ".join(item if isinstance(item, str) else str(cell_text(item) or "null") for item in value) or "none"
    written = nested_text(value)
    return NESTED if written is None else written


def row_texts(row: str | Mapping[Any, Any], fields: Sequence[str]) -> dict[str, str]:
    """A row's texts by field; empty for an empty cell.

    A row is a mapping with field names or headers; a text is the first field.

    Raises:
        KeyError: the row lacks a field, which the message names.
        TypeError: the row is neither a text nor a mapping, or a value cannot be converted to text.
    """
    row = {fields[0]: row} if isinstance(row, str) else row
    if not isinstance(row, Mapping):
        raise TypeError(f"a row must be a text or a mapping with named fields, not of type {type(row).__name__}")
    texts = {}
    for field in fields:
        try:
            value = row[column_of(field, [header for header in row if isinstance(header, str)]) or field]
        except KeyError as error:
            raise KeyError(f"the row has no field {field!r}; a row needs {', '.join(map(repr, fields))}") from error
        text = input_text(value)
        if text is NESTED:
            raise TypeError(f"a value of type {type(value).__name__} cannot be converted to text")
        texts[field] = text or ""
    return texts


def has_half_character(text: str) -> bool:
    """Whether a text contains a lone surrogate (half of a character), which cannot be written to a file."""
    return not text.isascii() and _HALF.search(text) is not None


def nested_text(value: Any) -> str | None:
    """A list or an object as JSON text; None if JSON does not support a value in it."""
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    text = cell_text(value)
    if text is NESTED:
        raise TypeError(f"a {type(value).__name__} is not JSON")
    return text


def is_field_name(name: str) -> bool:
    """Whether a name can be used in braces in a prompt."""
    return _FIELD_NAME.match(name) is not None


def column_of(field: str, columns: Iterable[str]) -> str | None:
    """The column of a field: the one with its name, else the only one whose header gives this name; None if there is none."""
    columns = list(columns)
    if field in columns:
        return field
    others = [column for column in columns if not is_field_name(column)]
    found = [column for column in others if marked_name(column) == field] or [c for c in others if plain_name(c) == field]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=1024)
def plain_name(column: str) -> str | None:
    """The header as a name; None if it has no letter or digit, or marks that a name cannot have, as in some scripts."""
    composed, plain = _read(column)
    if not plain or any(unicodedata.category(character).startswith("M") for character in composed):
        return None
    return plain if is_field_name(plain) else f"_{plain}"


@lru_cache(maxsize=1024)
def marked_name(column: str) -> str:
    """The header as a name that no other header gives."""
    composed, plain = _read(column)
    name = f"{plain or 'text'}_{sha256(composed.encode(errors='surrogatepass')).hexdigest()[:6]}"
    return name if is_field_name(name) else f"_{name}"


@lru_cache(maxsize=1024)
def _read(column: str) -> tuple[str, str]:
    """The header in the form that is the same in all encodings of its letters, and its letters, digits and ``_``."""
    composed = unicodedata.normalize("NFKC", column).strip()
    return composed, re.sub(r"\W+", "_", composed).strip("_")
