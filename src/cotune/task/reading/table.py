"""A table of rows as read from a source, before any validation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from types import MappingProxyType
from typing import Any

from cotune.errors import InputError, shown_names
from cotune.task.reading.cells import NESTED, cell_text, input_text, nested_text
from cotune.task.reading.yaml_names import yaml_list

Cell = str | None


@dataclass(frozen=True)
class Table:
    """A table of rows as read from a source, before any validation.

    Attributes:
        columns: column names in order.
        rows: for each row a mapping from column to text; None or a missing key for an empty cell.
        source: name of the file, data set or variable, for messages.
        numbers: number of each row for messages, counted from 1: the line in text files, else the row.
        unit: what ``numbers`` counts, ``line`` or ``row``.
        nested: column to its rows (from 0) with a list or an object, each with the text that an input shows (None if there is
            none). ``rows`` holds such cells as JSON.
        texts: columns with a text, in sources that distinguish numbers from texts; empty for CSV files.
        headers: original names of renamed columns, for messages.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Cell]]
    source: str
    numbers: Sequence[int]
    unit: str = "row"
    nested: Mapping[str, Mapping[int, Cell]] = field(default_factory=lambda: MappingProxyType({}))
    texts: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int, column: str | None = None) -> str:
        """The place of row ``index`` (and a column) for messages."""
        return self.place(self.numbers[index], column)

    def place(self, number: int | str, column: str | None = None) -> str:
        """The place of the row with a number from ``numbers``."""
        place = f"{self.source}, {self.unit} {number}"
        return f"{place}, column {self.header(column)!r}" if column is not None else place

    def header(self, column: str) -> str:
        """The original name of a column."""
        return self.headers.get(column, column)

    def filled(self, column: str) -> list[str]:
        """The non-blank cells of a column."""
        return [cell for row in self.rows if (cell := row.get(column)) and cell.strip()]

    def shown(self, index: int, column: str) -> Cell:
        """The text of a cell for an input, also for lists and objects."""
        lists = self.nested.get(column)
        return lists[index] if lists is not None and index in lists else self.rows[index].get(column)

    def need_input(self, column: str, asked_by: str = "", option: str = "") -> None:
        """Check that a column exists and all its cells can be shown as text.

        Raises:
            InputError: if it does not exist, or a cell cannot be shown.
        """
        self.need(column, asked_by, nested=True, option=option, several=True)
        for index, text in self.nested.get(column, {}).items():
            if text is None:
                raise InputError(
                    "the cell holds a value that cannot be written as text",
                    where=self.where(index, column),
                    hint="Give a text, a number, a date, or lists and objects of these.",
                )

    def need(self, column: str, asked_by: str = "", *, nested: bool = False, option: str = "", several: bool = False) -> None:
        """Check that a column exists and, unless allowed, contains no lists or objects.

        ``asked_by`` names what requires the column, and ``option`` the command line option for another one. ``several``
        says that there may be several such columns, so that names joined by commas are told apart.

        Raises:
            InputError: if it does not; names the most similar column.
        """
        if column not in self.columns:
            headers = tuple(map(self.header, self.columns))
            near = nearest_name(column, headers)
            wanted = f", which {asked_by} names" if asked_by else ""
            named = f", or add {option} COLUMN" if option else ""
            rename = f" Rename the one that holds it to {column!r}{named}." if asked_by else ""
            names = [name.strip() for name in column.split(",")] if several else []
            if len(names) > 1 and set(names) <= {*headers, *self.columns}:
                options = " ".join(f"--input {quote(name)}" for name in names)
                near, rename = "", f" Name each column by itself: {options}; in a task file input: {yaml_list(names)}."
            raise InputError(
                f"there is no column {column!r}{wanted}" + (f", did you mean {near!r}?" if near else ""),
                where=self.source,
                hint=f"Its columns: {shown_names(headers)}.{rename}",
            )
        if column in self.nested and not nested:
            first = min(self.nested[column])
            listed = self.nested[column][first] is not None
            raise InputError(
                f"the cell holds {'a list or an object' if listed else 'a value such as bytes'}, not a text",
                where=self.where(first, column),
                hint="Flatten it into separate text columns." if listed else "Give texts, numbers or dates.",
            )


def stored_text(value: Any, nested: dict[str, dict[int, Cell]], column: str, index: int) -> Cell:
    """The text of a cell. A list or an object becomes JSON, with its text for inputs added to ``nested``."""
    text = cell_text(value)
    if text is not NESTED:
        return text
    shown = input_text(value)
    nested.setdefault(column, {})[index] = None if shown is NESTED else shown
    return nested_text(value)


def table_from_rows(rows: Iterable[Any], source: str, numbers: Sequence[int] | None = None, unit: str = "row") -> Table:
    """A Table from mappings of column to value; columns are the union of keys in order of first occurrence.

    Raises:
        InputError: if there are no rows, or one is not a mapping.
    """
    columns: dict[str, None] = {}
    nested: dict[str, dict[int, Cell]] = {}
    texts: list[dict[str, Cell]] = []
    with_text: set[str] = set()
    for index, row in enumerate(rows):
        number = numbers[index] if numbers is not None else index + 1
        check_object(row, f"{source}, {unit} {number}")
        converted: dict[str, Cell] = {}
        for key, value in row.items():
            column = str(key)
            columns.setdefault(column)
            converted[column] = stored_text(value, nested, column, index)
            if isinstance(value, str):
                with_text.add(column)
        texts.append(converted)
    if not texts:
        raise InputError("there are no rows", where=source, hint="Give at least one row.")
    numbers = numbers if numbers is not None else range(1, len(texts) + 1)
    return Table(tuple(columns), texts, source, numbers, unit, nested, frozenset(with_text))


def check_object(row: object, where: str) -> None:
    """Check that a row is a mapping of names to values.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(row, Mapping):
        raise InputError(
            f"this is a {json_kind(row)} and not an object with named fields",
            where=where,
            hint='Write each row as an object, such as {"text": "..."}.',
        )


def json_kind(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "truth value",
        int: "number",
        float: "number",
        str: "text",
        list: "list",
        dict: "single object",
    }
    return kinds.get(type(value), type(value).__name__)


def free_name(name: str, columns: Collection[str]) -> str:
    """A free column name: the given one, else with a number."""
    candidate, number = name, 1
    while candidate in columns:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelled one probably means; None if none is similar enough."""
    table = {candidate.lower(): candidate for candidate in known}
    words = _words(name)
    # One name may contain all words of the other. Names that share some words, such as "Ticket No." and "Ticket category", have
    # a similarity of about two thirds.
    within = [candidate for candidate in table if words and (words <= _words(candidate) or words >= _words(candidate) != set())]
    near = difflib.get_close_matches(name.lower(), within, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.75)
    return table[near[0]] if near else None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower()))
