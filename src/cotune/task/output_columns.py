"""Several output columns, which are read as one column of JSON objects: each column is a property, a blank cell is none.

The joined column's name lists the columns, such as ``name, date``. It stands wherever an output column does, in configs and
bundles, so that every table of a task is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from cotune.errors import InputError
from cotune.task.reading.field_names import with_headers
from cotune.task.reading.table import Table
from cotune.task.values.json_value import is_json, json_text, parse_json
from cotune.task.values.label_type import LabelType, label_type, label_value
from cotune.task.values.schema import kind_of

CellType = Literal[LabelType, "nested"]
EMPTY = "{}"
"""The output of a row whose output columns are all blank."""
NOT_JSON = "the cell holds a value that JSON cannot express"
NOT_JSON_HINT = "Give null, texts, truth values, dates, numbers without NaN and infinity, or lists and objects of these."
_MOST_DIGITS = 15
"""Longest whole number that is read as a number; longer ones are names, such as those of parcels."""
_OF_SCHEMA: Mapping[str, CellType] = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "nested",
    "object": "nested",
}


def joined_name(columns: Sequence[str]) -> str:
    """The name of the column that joins several; of one column its own.

    Raises:
        InputError: there is none, one is named twice, or a name of several contains a comma.
    """
    if not columns:
        raise InputError("no output column is named", where="data.output", hint="Name at least one column.")
    if doubled := next((name for name in columns if columns.count(name) > 1), None):
        raise InputError(f"the column {doubled!r} is named twice", where="data.output", hint="Name each column once.")
    if len(columns) > 1 and (odd := next((name for name in columns if "," in name or name != name.strip()), None)):
        raise InputError(
            f"{odd!r} cannot be one of several output columns, because of its comma or its blanks at the ends",
            where="data.output",
            hint="Rename the column.",
        )
    return ", ".join(columns)


def listed_columns(name: str) -> tuple[str, ...]:
    """The columns that the name of a joined column lists; empty if it lists fewer than two."""
    parts = tuple(part.strip() for part in name.split(","))
    return parts if len(parts) > 1 and all(parts) else ()


def joins(table: Table, name: str) -> bool:
    """Whether an output column has to be joined from the columns that its name lists."""
    columns = listed_columns(name)
    return name not in table.columns and any(column in with_headers(table, columns).columns for column in columns)


def types_in(table: Table, name: str) -> dict[str, CellType]:
    """The type of each column that a name lists, by its cells: that of labels, or JSON if all are lists or objects."""
    table = with_headers(table, listed_columns(name))
    return {column: _type_of(table, column) for column in listed_columns(name)}


def types_of(schema: Mapping[str, Any] | None) -> dict[str, CellType]:
    """The type of each column by the schema of a task whose output columns were joined, of those whose part of it tells."""
    properties = (schema or {}).get("properties", {})
    types = {column: _type_in(part) for column, part in properties.items() if isinstance(part, Mapping)}
    return {column: kind for column, kind in types.items() if kind is not None}


def _type_in(part: Mapping[str, Any]) -> CellType | None:
    """The type of cells that a part of a schema allows; None if it does not tell.

    Of several types texts count last: a cell that is none of the others stays a text.
    """
    named = part.get("type")
    values = part["enum"] if isinstance(part.get("enum"), list) else [part["const"]] if "const" in part else []
    kinds: list[CellType | None] = []
    if named is not None:
        kinds = [_OF_SCHEMA.get(str(one), "text") for one in (named if isinstance(named, list) else [named]) if one != "null"]
    elif values:
        kinds = [_OF_SCHEMA.get(kind_of(value), "text") for value in values if value is not None]
    else:
        options: list[Any] = next((part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list)), [])
        kinds = [_type_in(one) for one in options if isinstance(one, Mapping) and one.get("type") != "null"]
    others = {*kinds} - {"text"}
    if {"int", "float"} <= others:
        others -= {"int"}
    if len(others) > 1 or None in others:
        return None
    return others.pop() if others else "text" if kinds else None


def with_joined(
    table: Table,
    name: str,
    types: Mapping[str, CellType],
    *,
    properties: Sequence[str] = (),
    empty: bool,
    asked_by: str = "",
    option: str = "",
) -> Table:
    """The table with another column ``name`` of JSON objects, made of the columns that it lists.

    Args:
        properties: names of the objects' properties, in the order of the columns; empty for the columns' names.
        types: type of the cells of each column; a cell that cannot be read as it stays a text.
        empty: whether a row without any value becomes an object without properties instead of a blank cell.
        asked_by: what requires the columns, for errors.
        option: command line option that names others, for errors.

    Raises:
        InputError: one of the columns is missing, or a cell has a value that JSON cannot express.
    """
    columns = listed_columns(name)
    table = with_headers(table, columns)
    for column in columns:
        table.need(column, asked_by, nested=True, option=option)
    rows = []
    for index, row in enumerate(table.rows):
        found = {}
        for column, key in zip(columns, properties or columns, strict=True):
            cell, nested = row.get(column), index in table.nested.get(column, ())
            if nested and cell is None:
                raise InputError(NOT_JSON, where=table.where(index, column), hint=NOT_JSON_HINT)
            if cell is not None and cell.strip():
                kind = "nested" if nested else types.get(key, "text")
                found[key] = _read(cell.strip(), kind)
        joined = json_text(found) if found else EMPTY if empty else None
        rows.append({**row, name: joined})
    return replace(table, columns=(*table.columns, name), rows=rows)


def cells_of(answer: Any, columns: Sequence[str]) -> dict[str, Any]:
    """The cell of each column for an answer; None where the answer has no such property. Lists and objects are JSON texts."""
    found = answer if isinstance(answer, Mapping) else {}
    return {name: json_text(cell) if isinstance(cell := found.get(name), (list, dict)) else cell for name in columns}


def _type_of(table: Table, column: str) -> CellType:
    cells = {cell.strip() for cell in table.filled(column)}
    if column in table.texts:
        return "text"
    if cells and all(cell[0] in "[{" and is_json(cell) for cell in cells):
        return "nested"
    kind = label_type(cells)
    return "text" if kind == "int" and max(map(len, cells)) > _MOST_DIGITS else kind


def _read(cell: str, kind: CellType) -> Any:
    if kind == "nested":
        return parse_json(cell) if is_json(cell) else cell
    own = label_type([cell]) if kind in ("int", "float") else kind
    if kind == "int" and own == "float" and float(cell).is_integer() and abs(float(cell)) < 10**_MOST_DIGITS:
        # A spreadsheet writes 1.0 in a column of whole numbers that has a blank cell.
        return int(float(cell))
    # A column of numbers with decimals may have whole ones.
    return label_value(cell, "int" if kind == "float" and own == "int" else kind)
