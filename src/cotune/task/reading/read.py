"""Read rows from files, hub data sets, frames and lists."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.errors import InputError, shortened
from cotune.files import expanded
from cotune.task.reading.table import Cell, Table, check_object, free_name, json_kind, nearest_name, table_from_rows

SEPARATED = (".csv", ".tsv", ".tab")
PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (*SEPARATED, *PARQUET, *JSON_LINES)
"""Suffixes of files that can be read and written."""
BOM = b"\xef\xbb\xbf"
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_READ = 1 << 20
"""Characters of a CSV file that are read to find its delimiter."""
_DECLARED = re.compile(r'"?sep=([^"\s]|\t)"?\r?\n')
"""First line of a file in which Excel finds the delimiter."""
_LOOKED_AT = 20
"""Number of rows that show which delimiter a file has."""


@dataclass(frozen=True)
class Sheet:
    """Rows with all their columns.

    Attributes:
        columns: in their order.
        rows: column to value as in the file: texts in CSV, JSON values in JSONL, Python values in Parquet.
        source: the file's name, for messages.
        numbers: number of each row, counted from 1: the line in text files, else the row.
        unit: what ``numbers`` counts, ``line`` or ``row``.
        delimiter: delimiter of a text file with cells.
        marked: whether the file begins with a byte order mark, by which spreadsheet programs recognize UTF-8.
        arrow: the pyarrow table of a Parquet file, whose types are preserved.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    source: str
    numbers: Sequence[int]
    unit: str = "row"
    delimiter: str = ","
    marked: bool = False
    arrow: Any = None

    def where(self, index: int) -> str:
        """The place of a row for messages."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"


def read_table(source: str | Path | Any, *, name: str | None = None, default_split: str = "train") -> Table:
    """Read rows from any supported source.

    Args:
        source: the path of a CSV, TSV, JSONL, JSON or Parquet file; ``hf://dataset[/config][:split]``; a pandas,
            polars or pyarrow frame; a ``datasets.Dataset``; or an iterable of mappings.
        name: name of the source in messages; by default its path, or its type.
        default_split: split of a hub data set if its name gives none.

    Raises:
        InputError: if the source cannot be read, is empty, or is damaged; names file, row and column.
    """
    if isinstance(source, str) and source.startswith("hf://"):
        from cotune.task.reading.hub import read_hub

        return read_hub(source, default_split)
    if isinstance(source, (str, Path)):
        path = expanded(source)
        sheet = read_sheet(path, name or str(source), keep_blank=False)
        if path.suffix.lower() in SEPARATED:
            return Table(sheet.columns, sheet.rows, sheet.source, sheet.numbers, sheet.unit)
        return table_from_rows(sheet.rows, sheet.source, sheet.numbers, sheet.unit)
    from cotune.task.reading.frames import is_frame, read_frame

    if is_frame(source):
        return read_frame(source, name)
    if (type(source).__module__.split(".")[0], type(source).__name__) == ("datasets", "Dataset"):
        from cotune.task.reading.hub import table_from_data_set

        return table_from_data_set(source, name or "the data set")
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        return table_from_rows(source, name or "the list of rows")
    raise InputError(
        f"cannot read rows from a {type(source).__name__}",
        where=name or "data",
        hint="Give a file name, a data frame, or a list of dictionaries.",
    )


def read_sheet(path: Path, source: str | None = None, *, keep_blank: bool = True) -> Sheet:
    """Read rows of a CSV, TSV, Parquet, JSONL or JSON file.

    Args:
        source: its name in messages; by default its path.
        keep_blank: convert blank lines of a CSV file, except at its end, to rows without cells, so that rows keep their
            positions.

    Raises:
        InputError: if the file is missing, empty, damaged, or of another kind; names the line.
    """
    source, suffix = source or str(path), path.suffix.lower()
    check_file(path, source)
    if suffix in PARQUET:
        return _read_parquet(path, source)
    if suffix not in (*SUFFIXES, ".json"):
        raise _unknown_format(suffix, source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the file cannot be read ({error.strerror or error})", where=source, hint="Check its permissions."
        ) from error
    text = _decode(data, source)
    if suffix in SEPARATED:
        delimiter = _delimiter_of(text) if suffix == ".csv" else "\t"
        return _read_separated(text, source, delimiter, keep_blank=keep_blank, marked=data.startswith(BOM))
    return _read_json(text, source) if suffix == ".json" else _read_json_lines(text, source)


def _unknown_format(suffix: str, source: str) -> InputError:
    if suffix in _SPREADSHEETS:
        return InputError(
            f"a file that ends in {suffix!r} can only be read by spreadsheet programs",
            where=source,
            hint="Save the sheet as CSV in UTF-8, and give that .csv file.",
        )
    return InputError(
        f"cannot tell the format of a file that ends in {suffix!r}" if suffix else "the file name has no ending",
        where=source,
        hint=f"Rename it to what it is: {', '.join((*SUFFIXES, '.json'))}.",
    )


def check_file(path: Path, source: str) -> None:
    try:
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the file cannot be reached ({error})", where=source, hint="Check its path and permissions."
        ) from error
    if not exists:
        # Equal suffixes would make all names similar.
        beside = [name for name in _names_beside(path) if nearest_name(path.stem, [Path(name).stem])]
        near = nearest_name(path.name, beside)
        raise InputError(
            "there is no such file" + (f", did you mean {near!r}?" if near else ""),
            where=source,
            hint="Check the path.",
        )
    if folder:
        raise InputError("this is a folder", where=source, hint="Name the data file in it.")


def _names_beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def _decode(data: bytes, source: str) -> str:
    if not data.strip(b" \t\r\n\0\xef\xbb\xbf"):
        raise InputError("the file is empty", where=source, hint="Give a file with rows.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("the file is UTF-16, not UTF-8", where=f"{source}, line 1", hint="Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data[:start].count(b"\n") + 1
        raise InputError(
            f"the file is not UTF-8 (byte 0x{data[start]:02x})",
            where=f"{source}, line {line}",
            hint="Save it as UTF-8; files from old spreadsheets are often Windows-1252.",
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(
            "there is a NUL byte in the text",
            where=f"{source}, line {line}",
            hint="Export it again as plain UTF-8 text; this looks like a binary or UTF-16 file.",
        )
    return text


def _delimiter_of(text: str) -> str:
    """Delimiter of a CSV file: comma, semicolon or tab, or the one that a first line ``sep=;`` names.

    Without such a line it is the one that cuts header and first rows into equally many cells, and into the most if several do;
    if none does, the first of these three that the header contains outside of quotes.
    """
    if declared := _DECLARED.match(text):
        return declared[1]
    # A table with labels has at least two columns.
    found = {delimiter: widths for delimiter in ",;\t" if (widths := _widths(text, delimiter)) and widths[0] > 1}
    even = [delimiter for delimiter, widths in found.items() if len(set(widths)) == 1]
    return max(even, key=lambda delimiter: found[delimiter][0], default=next(iter(found), ","))


def _widths(text: str, delimiter: str) -> list[int]:
    """Number of cells of the header and of the first rows; 0 for a row that is malformed with this delimiter."""
    widths: list[int] = []
    with _cells_of_any_size():
        reader = _reader(text[:_READ], delimiter)
        try:
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    widths.append(len(cells))
                if len(widths) > _LOOKED_AT:
                    return widths
        except csv.Error:
            widths.append(0)
    # The last row of a part of the text may be cut.
    return widths[:-1] if len(text) > _READ and len(widths) > 1 else widths


def _reader(text: str, delimiter: str) -> Any:
    """A CSV reader behind a line that declares this delimiter.

    It skips blanks before cells if all names in the header but the first have one, as in ``"text", "label"``.
    """
    declared = _DECLARED.match(text)
    start = declared.end() if declared and declared[1] == delimiter else 0
    # A lone carriage return ends lines too.
    first = re.split(r"[\r\n]", text[start : start + _READ].lstrip("\r\n"), maxsplit=1)[0]
    names = next(csv.reader([first], delimiter=delimiter), [])[1:]
    blanks = bool(names) and all(name.startswith(" ") for name in names)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=blanks)
    if start:
        next(reader)
    return reader


@contextmanager
def _cells_of_any_size() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_separated(text: str, source: str, delimiter: str, *, keep_blank: bool, marked: bool) -> Sheet:
    header: list[str] | None = None
    rows: list[dict[str, Cell]] = []
    numbers: list[int] = []
    blank: list[int] = []
    with _cells_of_any_size():
        reader = _reader(text, delimiter)
        start = reader.line_num + 1
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not cells or (len(cells) == 1 and not cells[0].strip() and header is not None and len(header) > 1):
                    blank += [line] if keep_blank and header is not None else []
                    continue
                if header is None:
                    header = _header(cells, f"{source}, line {line}")
                    continue
                if len(cells) != len(header):
                    torn = repr(header[len(cells)]) if len(cells) < len(header) else len(header) + 1
                    hint = "Put double quotes around cells that hold the separator or a line break."
                    if len(header) == 1:
                        hint += (
                            f" The header names only one column, {shortened(header[0])!r}: it must be the first line; where "
                            "a character other than , ; or tab separates columns, put a line such as sep=| before it."
                        )
                    raise InputError(
                        f"the row has {len(cells)} cells but the header has {len(header)} "
                        f"(the row begins with {shortened(cells[0], 40)!r})",
                        where=f"{source}, line {line}, column {torn}",
                        hint=hint,
                    )
                rows += [dict.fromkeys(header) for _ in blank]
                numbers += [*blank, line]
                blank.clear()
                rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
        except csv.Error as error:
            raise _csv_error(str(error), f"{source}, line {start}") from error
    if header is None:
        raise InputError("the file is empty", where=source, hint="Give a file with rows.")
    if not rows:
        raise InputError("there is a header but no rows", where=source, hint="Add rows below the header.")
    return Sheet(tuple(header), rows, source, numbers, "line", delimiter, marked)


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for position, name in enumerate(names):
        if not name:
            # Another column may have that name.
            names[position] = free_name(f"column {position + 1}", names)
        elif name in names[:position]:
            raise InputError(
                f"the header names {name!r} twice",
                where=f"{where}, column {position + 1}",
                hint="Give every column its own name.",
            )
    return names


def _csv_error(problem: str, where: str) -> InputError:
    if "unexpected end of data" in problem:
        what, hint = "a quote is opened here and never closed", "Close it; a double quote inside a quoted cell is written twice"
        return InputError(what, where=where, hint=f'{hint} ("").')
    if "expected after" in problem:
        hint = 'Write a double quote inside a quoted cell twice ("").'
        return InputError("a quoted cell continues after its closing quote", where=where, hint=hint)
    return InputError(f"the row cannot be read ({problem})", where=where, hint="Correct that row.")


def _read_json_lines(text: str, source: str) -> Sheet:
    """Rows of JSON lines; blank lines are skipped."""
    rows: list[Mapping[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{source}, line {number}"
            row = _parse_json(line, where, "Each line must be one JSON object.")
            check_object(row, where)
            rows.append(row)
            numbers.append(number)
    return Sheet(_columns(rows), rows, source, numbers, "line")


def _read_json(text: str, source: str) -> Sheet:
    """Rows of a list of objects."""
    rows = _parse_json(text, source, "Write a list of objects, or one object a line in a .jsonl file.")
    if not isinstance(rows, list):
        raise InputError(
            f"the file holds a {json_kind(rows)} and not a list of rows",
            where=source,
            hint='Write [{"text": "..."}, ...].',
        )
    for number, row in enumerate(rows, start=1):
        check_object(row, f"{source}, row {number}")
    return Sheet(_columns(rows), _some(rows, source), source, range(1, len(rows) + 1))


def _read_parquet(path: Path, source: str) -> Sheet:
    from cotune.task.reading.frames import parquet_columns

    table, columns = parquet_columns(path, source)
    names = tuple(table.column_names)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(values for _, values in columns), strict=True)]
    return Sheet(names, _some(rows, source), source, range(1, len(rows) + 1), arrow=table)


def _columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _some(rows: list[Any], source: str) -> list[Any]:
    if not rows:
        raise InputError("there are no rows", where=source, hint="Give at least one row.")
    return rows


def _parse_json(text: str, where: str, hint: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            names = [name for name, _ in pairs]
            doubled = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the key {doubled!r} is given twice in one object", where=where, hint="Keep one of the two.")
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"character {error.colno}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"
        raise InputError(f"this is not valid JSON ({error.msg} at {place})", where=where, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"this JSON cannot be read ({error})", where=where, hint=hint) from error
