"""Validation of rows for a bundle, by the same rules as training rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from cotune.errors import InputError, RowError, shown_names
from cotune.task.reading.cells import NESTED, column_of, has_half_character, input_text


def checked_row(row: Any, input_fields: Sequence[str], where: str) -> dict[str, str]:
    """The input fields of a row as texts.

    Numbers, truth values, dates, lists and objects become texts as they do in training data. A field may have the name of the
    training column, ``Customer message`` for ``Customer_message``.

    Args:
        row: a mapping with the input fields, or a text if there is one field.
        where: name of the row in errors, such as ``row 3``.

    Raises:
        RowError: a field cannot be converted to text or has a lone surrogate, or all are empty.
        InputError: a field is missing, or the row has none.
    """
    hint = f"Give rows like {example_row(input_fields)}."
    if isinstance(row, str):
        if len(input_fields) > 1:
            what = f"the task has {len(input_fields)} input fields ({', '.join(input_fields)}), but this is a single text"
            raise InputError(what, where=where, hint=hint)
        row = {input_fields[0]: row}
    if not isinstance(row, Mapping):
        what = f"a row must be a text or an object with named fields, not a {type(row).__name__}"
        raise InputError(what, where=where, hint=hint)
    fields = {name: _field(row, name, where) for name in input_fields}
    if not any(text.strip() for text in fields.values()):
        named = [column_of(name, [key for key in row if isinstance(key, str)]) or name for name in fields]
        raise RowError("the input is empty", where=f"{where}, {', '.join(named)}", hint="Fill it, or remove the row.")
    return fields


def said(fields: Mapping[str, str]) -> str:
    """The normalised content of a row, equal for rows that differ only in case and spaces."""
    return "\n".join(" ".join(text.casefold().split()) for text in fields.values())


def example_row(input_fields: Sequence[str]) -> str:
    """An example of a row, for messages and cards."""
    return "{" + ", ".join(f'"{name}": "..."' for name in input_fields) + "}"


def _field(row: Mapping[Any, Any], name: str, where: str) -> str:
    if name not in row:
        # Look up the field's own name first, then the names of a spreadsheet's columns.
        column = column_of(name, [key for key in row if isinstance(key, str)])
        if column is not None:
            return _text(row[column], column, where)
        known = [str(key) for key in row]
        lower = {key.lower(): key for key in known}
        near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        raise InputError(
            f"there is no field {name!r}" + (f", did you mean {lower[near[0]]!r}?" if near else ""),
            where=where,
            hint=f"The row has {shown_names(known, 10) or 'no fields'}; name the field {name!r}.",
        )
    return _text(row[name], name, where)


def _text(value: Any, name: str, where: str) -> str:
    text = input_text(value)
    if text is NESTED:
        raise RowError(
            f"a value of type {type(value).__name__} cannot be converted to text",
            where=f"{where}, field {name!r}",
            hint="Give a text, a number, a date, or a list or object of these.",
        )
    found = str(text or "")
    if "\0" in found or has_half_character(found):
        kind = "a NUL character" if "\0" in found else "half a character (a lone surrogate)"
        raise RowError(f"there is {kind} in the text", where=f"{where}, field {name!r}", hint="Remove it.")
    return found
