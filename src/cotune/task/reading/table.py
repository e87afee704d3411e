"""Rows as read, before anything is asked of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cotune.errors import InputError, shown_names
from cotune.task.reading.cells import NESTED, cell_text, input_text, nested_text

Cell = str | None


@dataclass(frozen=True)
class Table:
    """Rows as read, before anything is asked of them.

    Attributes:
        columns: column names in their order.
        rows: one mapping a row from column to text; None or a missing key where the cell is empty.
        source: file, data set or variable that the rows came from, for messages.
        numbers: one number a row for messages: the line in text files, else the row, both counted from 1.
        unit: what ``numbers`` counts, ``line`` or ``row``.
        nested: column to its rows, counted from 0, that hold a list or an object in place of a text, each with the text that
            an input shows, None where there is none; such cells stand in ``rows`` as JSON text.
        texts: columns in which a source that tells numbers from texts holds a text; none of a CSV file, which does not.
        headers: what the source calls columns that are called otherwise here, for messages.
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
        """The place of row ``index`` (and a column) as messages name it."""
        return self.place(self.numbers[index], column)

    def place(self, number: int | str, column: str | None = None) -> str:
        """The place of the row that ``numbers`` calls ``number``."""
        place = f"{self.source}, {self.unit} {number}"
        return f"{place}, column {self.header(column)!r}" if column is not None else place

    def header(self, column: str) -> str:
        """What the source calls a column."""
        return self.headers.get(column, column)

    def filled(self, column: str) -> list[str]:
        """The cells of a column that are not blank."""
        return [cell for row in self.rows if (cell := row.get(column)) and cell.strip()]

    def shown(self, index: int, column: str) -> Cell:
        """A cell as an input shows it, lists and objects too."""
        lists = self.nested.get(column)
        return lists[index] if lists is not None and index in lists else self.rows[index].get(column)

    def need_input(self, column: str, asked_by: str = "", option: str = "") -> None:
        """Check that a column exists and each of its cells can be shown as text.

        Raises:
            InputError: it does not, or one cannot.
        """
        self.need(column, asked_by, nested=True, option=option)
        for index, text in self.nested.get(column, {}).items():
            if text is None:
                raise InputError(
                    "the cell holds what cannot be written as text",
                    where=self.where(index, column),
                    hint="Give a text, a number, a date, or lists and objects of these.",
                )

    def need(self, column: str, asked_by: str = "", *, nested: bool = False, option: str = "") -> None:
        """Check that a column exists and, unless they are wanted, holds no lists or objects.

        ``asked_by`` says who wants it, where that is not plain, and ``option`` how the command line names another one.

        Raises:
            InputError: it does not; names the nearest column.
        """
        if column not in self.columns:
            headers = tuple(map(self.header, self.columns))
            near = nearest_name(column, headers)
            wanted = f", which {asked_by} names" if asked_by else ""
            named = f", or add {option} COLUMN" if option else ""
            rename = f" Rename the one that holds it to {column!r}{named}." if asked_by else ""
            raise InputError(
                f"there is no column {column!r}{wanted}" + (f", did you mean {near!r}?" if near else ""),
                where=self.source,
                hint=f"Its columns: {shown_names(headers)}.{rename}",
            )
        if column in self.nested and not nested:
            raise InputError(
                "the cell holds a list or an object, not a text",
                where=self.where(min(self.nested[column]), column),
                hint="Flatten it into separate text columns.",
            )


def stored_text(value: Any, nested: dict[str, dict[int, Cell]], column: str, index: int) -> Cell:
    """The text of a cell; of a list or an object its JSON, and in ``nested`` is noted what an input shows of it."""
    text = cell_text(value)
    if text is not NESTED:
        return text
    shown = input_text(value)
    nested.setdefault(column, {})[index] = None if shown is NESTED else shown
    return nested_text(value)


def table_from_rows(rows: Iterable[Any], source: str, numbers: Sequence[int] | None = None, unit: str = "row") -> Table:
    """A Table from mappings of column to value; columns are the union of keys in order of first sight.

    Raises:
        InputError: there are no rows, or one is no mapping.
    """
    columns: dict[str, None] = {}
    nested: dict[str, dict[int, Cell]] = {}
    texts: list[dict[str, Cell]] = []
    with_text: set[str] = set()
    for index, row in enumerate(rows):
        number = numbers[index] if numbers is not None else index + 1
        check_object(row, f"{source}, {unit} {number}", '{"text": "...", "label": "..."}')
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


def check_object(row: object, where: str, example: str) -> None:
    """Refuse a row that is no mapping of names to values; ``example`` says how one is written.

    Raises:
        InputError: it is none.
    """
    if not isinstance(row, Mapping):
        raise InputError(
            f"this is a {json_kind(row)} and not an object with named fields",
            where=where,
            hint=f"Write each row like {example}.",
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
    """A name that no column has yet: the one that is wanted, else with a number."""
    found, number = name, 1
    while found in columns:
        number += 1
        found = f"{name}_{number}"
    return found


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that another one is probably a slip of; None where none is as near as that."""
    table = {candidate.lower(): candidate for candidate in known}
    words = _words(name)
    # All of the words of one may stand in the other; names that share some, such as "Ticket No." and "Ticket category", are
    # alike by about two thirds.
    within = [candidate for candidate in table if words and (words <= _words(candidate) or words >= _words(candidate) != set())]
    near = difflib.get_close_matches(name.lower(), within, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.75)
    return table[near[0]] if near else None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", name.lower()))
