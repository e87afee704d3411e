"""Field names of columns for prompts: ``Customer message`` becomes ``Customer_message``.

A name depends on what its header says, never on the position of the column: the next file may order its columns differently.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from cotune.files import content_hash
from cotune.task.reading.table import Table, free_name

_VALID = re.compile(r"[^\W\d]\w*\Z")
_BRACED = re.compile(r"\{([^{}\n]+)\}")
RESERVED = "labels"
"""Reserved names: ``{labels}`` in a prompt is replaced by the list of labels."""


def is_field_name(name: str) -> bool:
    """Whether a name can be used in braces in a prompt."""
    return _VALID.match(name) is not None


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """The field name of each column: its own name if it is valid in a prompt, else the most similar one.

    Characters other than letters, digits and ``_`` become ``_``, and a leading digit gets a ``_`` before it. Where several
    columns would have the same name, or the header has no letter or digit, a hash of the header is added.
    """
    columns = list(columns)
    taken = {column for column in columns if is_field_name(column)} | {RESERVED}
    similar = Counter(_plain(column) for column in columns if not is_field_name(column))
    names = {}
    for column in columns:
        if is_field_name(column):
            names[column] = column
            continue
        plain = _plain(column)
        unique = plain is not None and similar[plain] == 1 and plain not in taken
        # Only headers that are equal but for their encoding still need a number.
        names[column] = plain if plain is not None and unique else free_name(_marked(column), taken)
        taken.add(names[column])
    return names


def fields_for(wanted: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The field names of columns, given by column or field name; unknown names are returned unchanged."""
    names = field_names(columns)
    return tuple(names.get(name, name) for name in wanted)


def column_of(field: str, columns: Iterable[str]) -> str | None:
    """The column of a field: the one with its name, else the only one whose header gives this name; None if there is none."""
    columns = list(columns)
    if field in columns:
        return field
    others = [column for column in columns if not is_field_name(column)]
    found = [column for column in others if _marked(column) == field] or [c for c in others if _plain(c) == field]
    return found[0] if len(found) == 1 else None


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
        names = (name,) if is_field_name(name) else (_marked(name), _plain(name))
        return next((f"{{{field}}}" for field in names if field in fields), match[0])

    return _BRACED.sub(called, template)


@lru_cache(maxsize=1024)
def _plain(column: str) -> str | None:
    """The header as a name; None if it has no letter or digit, or marks that a name cannot have, as in some scripts."""
    composed, plain = _read(column)
    if not plain or any(unicodedata.category(character).startswith("M") for character in composed):
        return None
    return plain if is_field_name(plain) else f"_{plain}"


@lru_cache(maxsize=1024)
def _marked(column: str) -> str:
    """The header as a name that no other header gives."""
    composed, plain = _read(column)
    name = f"{plain or 'text'}_{content_hash(composed.encode(errors='surrogatepass'), 6)}"
    return name if is_field_name(name) else f"_{name}"


@lru_cache(maxsize=1024)
def _read(column: str) -> tuple[str, str]:
    """The header in the form that is the same in all encodings of its letters, and its letters, digits and ``_``."""
    composed = unicodedata.normalize("NFKC", column).strip()
    return composed, re.sub(r"\W+", "_", composed).strip("_")
