"""Field names of columns for prompts: ``Customer message`` becomes ``Customer_message``.

A name depends on what its header says, never on the position of the column: the next file may order its columns differently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from cotune.task.reading.cells import column_of, is_field_name, marked_name, plain_name
from cotune.task.reading.table import Table, free_name

_BRACED = re.compile(r"\{([^{}\n]+)\}")
RESERVED = "labels"
"""Reserved names: ``{labels}`` in a prompt is replaced by the list of labels."""


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """The field name of each column: its own name if it is valid in a prompt, else the most similar one.

    Characters other than letters, digits and ``_`` become ``_``, and a leading digit gets a ``_`` before it. Where several
    columns would have the same name, or the header has no letter or digit, a hash of the header is added.
    """
    columns = list(columns)
    taken = {column for column in columns if is_field_name(column)} | {RESERVED}
    similar = Counter(plain_name(column) for column in columns if not is_field_name(column))
    names = {}
    for column in columns:
        if is_field_name(column):
            names[column] = column
            continue
        plain = plain_name(column)
        unique = plain is not None and similar[plain] == 1 and plain not in taken
        # Only headers that are equal but for their encoding still need a number.
        names[column] = plain if plain is not None and unique else free_name(marked_name(column), taken)
        taken.add(names[column])
    return names


def fields_for(wanted: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The field names of columns, given by column or field name; unknown names are returned unchanged."""
    names = field_names(columns)
    return tuple(names.get(name, name) for name in wanted)


def with_fields(table: Table, fields: Mapping[str, str]) -> Table:
    """The table with columns renamed to fields.

    Args:
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


def with_headers(table: Table, names: Iterable[str | None]) -> Table:
    """The table with columns renamed to those of ``names`` that differ from them only in the encoding of letters.

    macOS writes ``ö`` as two characters, so a header may look like a name and still be another text.
    """
    renamed: dict[str, str] = {}
    for name in names:
        if name is not None and name not in table.columns:
            alike = [column for column in table.columns if marked_name(column) == marked_name(name)]
            renamed |= {name: alike[0]} if len(alike) == 1 else {}
    return with_fields(table, renamed)


def with_field_names(template: str, fields: Collection[str]) -> str:
    """The template with columns in braces, such as ``{Customer message}``, replaced by their field names."""

    def called(match: re.Match[str]) -> str:
        name = match[1].strip()
        names = (name,) if is_field_name(name) else (marked_name(name), plain_name(name))
        return next((f"{{{field}}}" for field in names if field in fields), match[0])

    return _BRACED.sub(called, template)
