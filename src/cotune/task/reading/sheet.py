"""Writing the rows of a file with further columns."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cotune.files import atomic_path, check_ending
from cotune.task.reading.cells import NESTED, cell_text, has_half_character, nested_text
from cotune.task.reading.read import BOM, PARQUET, SEPARATED, SUFFIXES, Sheet


def check_suffix(path: Path) -> None:
    """Check that a file name ends in one of :data:`SUFFIXES`, before anything is computed.

    Raises:
        InputError: another ending.
    """
    check_ending(path, SUFFIXES, "rows")


def write_sheet(sheet: Sheet, added: Mapping[str, Sequence[Any]], out: Path) -> None:
    """Write rows with added columns, in the format of the file's suffix.

    Args:
        sheet: the rows as they were read.
        added: new columns, with a value for each row.
        out: the file; written atomically.

    Raises:
        InputError: if the suffix is unknown, or the file cannot be written.
    """
    check_suffix(out)
    suffix = out.suffix.lower()
    with atomic_path(out) as temporary:
        if suffix in PARQUET:
            _write_parquet(sheet, added, temporary)
        else:
            text = sheet_text(sheet, added, suffix)
            temporary.write_bytes((BOM if sheet.marked and suffix in SEPARATED else b"") + text.encode("utf-8"))


def sheet_text(sheet: Sheet, added: Mapping[str, Sequence[Any]], suffix: str) -> str:
    """The rows with added columns as CSV, TSV or JSON lines; JSON lines for Parquet too.

    Lone surrogates, which only JSON can represent, are written as escapes.
    """
    lines: list[str] = []
    if suffix not in SEPARATED:
        first = next(iter(added), "")
        for index, row in enumerate(sheet.rows):
            # Values that a row does not have, such as an error, are left out.
            more = {name: values[index] for name, values in added.items() if values[index] is not None or name == first}
            lines.append(json_line(plain_json({**row, **more})))
        return "".join(lines)
    delimiter = "\t" if suffix != ".csv" else sheet.delimiter if sheet.delimiter != "\t" else ","
    # A writer quotes a cell that holds a character of its line end: with "\n" alone, a "\r" in a cell would end the row.
    writer = csv.writer(SimpleNamespace(write=lines.append), delimiter=delimiter, lineterminator="\r\n")
    if suffix == ".csv" and delimiter not in ",;":
        # A reader finds no other delimiter by itself.
        lines.append(f"sep={delimiter}\r\n")
    writer.writerow([escaped(name) for name in (*sheet.columns, *added)])
    for index, row in enumerate(sheet.rows):
        cells = [row.get(name) for name in sheet.columns] + [values[index] for values in added.values()]
        writer.writerow([_cell(value) for value in cells])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _write_parquet(sheet: Sheet, added: Mapping[str, Sequence[Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = sheet.arrow
    if table is None:
        table = pa.table({escaped(name): _arrow_column([row.get(name) for row in sheet.rows]) for name in sheet.columns})
    for name, values in added.items():
        table = table.append_column(escaped(name), _arrow_column(list(values)))
    pq.write_table(table, path)


def _arrow_column(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        column = pa.array(values)
        if not _has_empty_object(column.type):
            return column
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Values of mixed types, integers beyond 64 bits, lone surrogates.
        pass
    # Parquet has no type for these; store them as text.
    return pa.array([None if value is None else _cell(value) for value in values], type=pa.string())


def _has_empty_object(kind: Any) -> bool:
    """Whether an Arrow type contains objects without keys, which Parquet cannot store."""
    import pyarrow as pa

    empty = pa.types.is_struct(kind) and kind.num_fields == 0
    return empty or any(_has_empty_object(kind.field(i).type) for i in range(kind.num_fields))


def _cell(value: Any) -> str:
    text = cell_text(value)
    if text is NESTED:
        text = nested_text(value)
        return escaped(str(value) if text is None else text)
    return escaped(text or "")


def escaped(text: str) -> str:
    """The text with lone surrogates as JSON escapes: files cannot hold them, and answered rows must not be lost."""
    return text.encode("utf-8", "backslashreplace").decode() if has_half_character(text) else text


def json_line(row: Mapping[str, Any]) -> str:
    """A row of JSON values as a line."""
    line = json.dumps(row, ensure_ascii=False)
    # A lone surrogate in a key or in a value that is no input: escaped, it can be written and read back.
    return (json.dumps(row) if has_half_character(line) else line) + "\n"


def plain_json(value: Any) -> Any:
    """A value of a cell as JSON can express it: numbers that are not finite as null, dates as texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain_json(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(inner) for inner in value]
    text = cell_text(value)
    return str(value) if text is NESTED else text
