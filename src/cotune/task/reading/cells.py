"""Convert values from files and frames to the text of a cell, in the same way for all formats."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import re
import uuid
from typing import Any, Final

_HALF = re.compile("[\ud800-\udfff]")


class _Nested(enum.Enum):
    NESTED = "nested"


NESTED: Final = _Nested.NESTED


def cell_text(value: Any) -> str | _Nested | None:
    """The text of a cell.

    Numbers become their shortest exact text, booleans ``true`` and ``false``, dates ISO 8601. An empty text, None, NaN and a
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
            return str(value)
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
    if isinstance(value, uuid.UUID):
        return str(value)
    return NESTED


def input_text(value: Any) -> str | _Nested | None:
    """The text of a cell as an input shows it: a list as ``a, b``, an empty one as ``none``, an object or nested lists as JSON.

    Args:
        value: as for :func:`cell_text`, which converts single texts, numbers and dates.

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
