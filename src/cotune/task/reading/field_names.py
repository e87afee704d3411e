"""Field names of columns for prompts: ``Customer message`` becomes ``Customer_message``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from cotune.task.reading.table import Table

_VALID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BRACED = re.compile(r"\{([^{}\n]+)\}")
RESERVED = "labels"
"""Reserved names: ``{labels}`` in a prompt is replaced by the list of labels."""


def is_field_name(name: str) -> bool:
    """Whether a name can be used in braces in a prompt."""
    return _VALID.match(name) is not None


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """The field name of each column: its own name if it is valid in a prompt, else the most similar free name.

    Accents are removed, characters other than letters, digits and ``_`` become ``_``, and a leading digit gets a ``_`` before
    it.
    """
    columns = list(columns)
    taken = {column for column in columns if is_field_name(column)} | {RESERVED}
    names = {}
    for column in columns:
        if is_field_name(column):
            names[column] = column
            continue
        plain, number = _plain(column), 1
        name = plain
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names[column] = name
    return names


def fields_for(wanted: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The field names of columns, given by column or field name; unknown names are returned unchanged."""
    names = field_names(columns)
    return tuple(names.get(name, name) for name in wanted)


def column_of(field: str, columns: Iterable[str]) -> str | None:
    """The column of a field: the one with its name, else the one with this field name; None if there is none."""
    columns = list(columns)
    if field in columns:
        return field
    return next((column for column, name in field_names(columns).items() if name == field), None)


def with_fields(table: Table, fields: Mapping[str, str]) -> Table:
    """The table with columns renamed to fields.

    Args:
        table: rows as read.
        fields: field name to column name in the task's first table; other tables may use either name.
    """
    renamed = {}
    for field, column in fields.items():
        source = column if column in table.columns else column_of(field, table.columns)
        if source is not None and source != field:
            renamed[source] = field
    if not renamed:
        return table
    # Another column with that name would conflict.
    hidden = set(renamed.values()) & set(table.columns)
    kept = [column for column in table.columns if column not in hidden]

    def called(column: str) -> str:
        return renamed.get(column, column)

    return replace(
        table,
        columns=tuple(map(called, kept)),
        rows=[{called(column): text for column, text in row.items() if column not in hidden} for row in table.rows],
        nested={called(column): cells for column, cells in table.nested.items() if column not in hidden},
        texts=frozenset(called(column) for column in table.texts if column not in hidden),
        headers={**table.headers, **{field: table.header(source) for source, field in renamed.items()}},
    )


def with_field_names(template: str, fields: Collection[str]) -> str:
    """The template with columns in braces, such as ``{Customer message}``, replaced by their field names."""

    def called(match: re.Match[str]) -> str:
        name = match[1].strip()
        plain = name if is_field_name(name) else _plain(name)
        return f"{{{plain}}}" if plain in fields and plain != match[1] else match[0]

    return _BRACED.sub(called, template)


def _plain(column: str) -> str:
    letters = "".join(c for c in unicodedata.normalize("NFKD", column) if not unicodedata.combining(c))
    plain = re.sub(r"\W+", "_", letters, flags=re.ASCII).strip("_") or "text"
    return f"_{plain}" if plain[0].isdigit() else plain
