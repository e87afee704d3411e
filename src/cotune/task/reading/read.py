"""Read rows from files, hub data sets, frames and lists into a Table."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cotune.errors import InputError, shortened
from cotune.files import expanded
from cotune.task.reading.table import Cell, Table, free_name, json_kind, nearest_name, table_from_rows

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_READ = 1 << 20
"""Characters of a CSV file that are read to find its delimiter."""
_DECLARED = re.compile(r'"?sep=([^"\s]|\t)"?\r?\n')
"""First line of a file in which Excel finds the delimiter."""
_LOOKED_AT = 20
"""Number of rows that show which delimiter a file has."""


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
        return _read_file(expanded(source), name or str(source))
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


def _read_file(path: Path, source: str) -> Table:
    check_file(path, source)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        from cotune.task.reading.frames import read_parquet

        return read_parquet(path, source)
    if suffix not in _TEXT_READERS:
        raise unknown_format(suffix, source, (*_TEXT_READERS, ".parquet"))
    return _TEXT_READERS[suffix](decode(read_bytes(path, source), source), source)


def read_bytes(path: Path, source: str) -> bytes:
    """The content of a file of rows; ``source`` is its name in errors.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the file cannot be read ({error.strerror or error})", where=source, hint="Check its permissions."
        ) from error


def unknown_format(suffix: str, source: str, known: Iterable[str]) -> InputError:
    """The error for a file with an unknown suffix, or with that of a spreadsheet program."""
    if suffix in _SPREADSHEETS:
        return InputError(
            f"a file that ends in {suffix!r} can only be read by spreadsheet programs",
            where=source,
            hint="Save the sheet as CSV in UTF-8, and give that .csv file.",
        )
    return InputError(
        f"cannot tell the format of a file that ends in {suffix!r}" if suffix else "the file name has no ending",
        where=source,
        hint=f"Rename it to what it is: {', '.join(known)}.",
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


def decode(data: bytes, source: str) -> str:
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


def delimiter_of(text: str) -> str:
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


def _read_csv(text: str, source: str) -> Table:
    return read_separated(text, source, delimiter_of(text))


def _read_tsv(text: str, source: str) -> Table:
    return read_separated(text, source, "\t")


def read_separated(text: str, source: str, delimiter: str, *, keep_blank: bool = False) -> Table:
    """A Table from delimited text.

    Args:
        text: the file's content.
        source: its name in messages.
        delimiter: delimiter of the cells.
        keep_blank: convert blank lines, except at the end, to rows without cells, so that rows keep their positions.

    Raises:
        InputError: if there are no rows, or one is malformed; names the line.
    """
    with _cells_of_any_size():
        return _parse_separated(text, source, delimiter, keep_blank)


@contextmanager
def _cells_of_any_size() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parse_separated(text: str, source: str, delimiter: str, keep_blank: bool) -> Table:
    reader = _reader(text, delimiter)
    header: list[str] | None = None
    rows: list[dict[str, Cell]] = []
    numbers: list[int] = []
    blank: list[int] = []
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
                raise InputError(
                    f"the row has {len(cells)} cells but the header has {len(header)} "
                    f"(the row begins with {shortened(cells[0], 40)!r})",
                    where=f"{source}, line {line}, column {_torn_column(header, len(cells))}",
                    hint="Put double quotes around cells that hold the separator or a line break.",
                )
            rows += [dict.fromkeys(header) for _ in blank]
            numbers += [*blank, line]
            blank.clear()
            rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        _raise_csv_error(str(error), f"{source}, line {start}", error)
    if header is None:
        raise InputError("the file is empty", where=source, hint="Give a file with rows.")
    if not rows:
        raise InputError("there is a header but no rows", where=source, hint="Add rows below the header.")
    return Table(tuple(header), rows, source, numbers, "line")


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


def _torn_column(header: list[str], cells: int) -> str:
    return repr(header[cells]) if cells < len(header) else str(len(header) + 1)


def _raise_csv_error(problem: str, where: str, error: csv.Error) -> NoReturn:
    if "unexpected end of data" in problem:
        raise InputError(
            "a quote is opened here and never closed",
            where=where,
            hint='Close it; a double quote inside a quoted cell is written twice ("").',
        ) from error
    if "expected after" in problem:
        raise InputError(
            "a quoted cell continues after its closing quote",
            where=where,
            hint='Write a double quote inside a quoted cell twice ("").',
        ) from error
    raise InputError(f"the row cannot be read ({problem})", where=where, hint="Correct that row.") from error


def _read_json_lines(text: str, source: str) -> Table:
    values = list(json_lines(text, source))
    return table_from_rows([row for _, row in values], source, [number for number, _ in values], "line")


def json_lines(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines with line numbers from 1; blank lines are skipped.

    Raises:
        InputError: if a line is not JSON; names the line.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, parse_json_row(line, f"{source}, line {number}", "Each line must be one JSON object.")


def _read_json(text: str, source: str) -> Table:
    return table_from_rows(json_list(text, source), source)


def json_list(text: str, source: str) -> list[Any]:
    """The values of a JSON list.

    Raises:
        InputError: if the text is not a JSON list.
    """
    value = parse_json_row(text, source, "Write a list of objects, or one object a line in a .jsonl file.")
    if not isinstance(value, list):
        raise InputError(
            f"the file holds a {json_kind(value)} and not a list of rows",
            where=source,
            hint='Write [{"text": "..."}, ...].',
        )
    return value


def parse_json_row(text: str, where: str, hint: str) -> Any:
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


_TEXT_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".tab": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
}
