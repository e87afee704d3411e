"""Reading labelled rows from files, hub data sets, frames and lists into one light Table."""

from __future__ import annotations

import csv
import difflib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from cotune.errors import InputError
from cotune.task.reading.cells import NESTED, cell_text, input_text, nested_text

Cell = str | None
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


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
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Cell]]
    source: str
    numbers: Sequence[int]
    unit: str = "row"
    nested: Mapping[str, Mapping[int, Cell]] = field(default_factory=lambda: MappingProxyType({}))
    texts: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int, column: str | None = None) -> str:
        """The place of row ``index`` (and a column) as messages name it."""
        place = f"{self.source}, {self.unit} {self.numbers[index]}"
        return f"{place}, column {column!r}" if column is not None else place

    def shown(self, index: int, column: str) -> Cell:
        """A cell as an input shows it, lists and objects too."""
        lists = self.nested.get(column)
        return lists[index] if lists is not None and index in lists else self.rows[index].get(column)

    def need_input(self, column: str, asked_by: str = "") -> None:
        """Check that a column exists and each of its cells can be shown as text.

        Raises:
            InputError: it does not, or one cannot.
        """
        self.need(column, asked_by, nested=True)
        for index, text in self.nested.get(column, {}).items():
            if text is None:
                raise InputError(
                    "the cell holds what cannot be written as text",
                    where=self.where(index, column),
                    mend="Give a text, a number, a date, or lists and objects of these.",
                )

    def need(self, column: str, asked_by: str = "", *, nested: bool = False) -> None:
        """Check that a column exists and, unless they are wanted, holds no lists or objects.

        ``asked_by`` says who wants it, where that is not plain.

        Raises:
            InputError: it does not; names the nearest column.
        """
        if column not in self.columns:
            near = _nearest(column, self.columns)
            shown = ", ".join(map(repr, self.columns[:20])) + (" ..." if len(self.columns) > 20 else "")
            wanted = f", which {asked_by} names" if asked_by else ""
            rename = f" Rename the one that holds it to {column!r}, or name it on the command line." if asked_by else ""
            raise InputError(
                f"there is no column {column!r}{wanted}" + (f", did you mean {near!r}?" if near else ""),
                where=self.source,
                mend=f"Its columns: {shown}.{rename}",
            )
        if column in self.nested and not nested:
            raise InputError(
                "the cell holds a list or an object, not a text",
                where=self.where(min(self.nested[column]), column),
                mend="Flatten it into text columns of their own.",
            )


def read_table(source: str | Path | Any, *, name: str | None = None, default_split: str = "train") -> Table:
    """Read rows from wherever they are.

    Args:
        source: the path of a CSV, TSV, JSONL, JSON or Parquet file; ``hf://dataset[/config][:split]``; a pandas,
            polars or pyarrow frame; a ``datasets.Dataset``; or an iterable of mappings.
        name: what messages call the source; its path, or what kind of thing it is, by default.
        default_split: split of a hub data set that is read where its name gives none.

    Raises:
        InputError: the source cannot be read, is empty, or is broken; names file, row and column.
    """
    if isinstance(source, str) and source.startswith("hf://"):
        from cotune.task.reading.hub import read_hub

        return read_hub(source, default_split)
    if isinstance(source, (str, Path)):
        return _read_file(Path(source), name or str(source))
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
        mend="Give a file name, a data frame, or a list of dictionaries.",
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
        if not isinstance(row, Mapping):
            raise InputError(
                f"this is a {json_kind(row)} and not an object with named fields",
                where=f"{source}, {unit} {number}",
                mend='Write each row like {"text": "...", "label": "..."}.',
            )
        converted: dict[str, Cell] = {}
        for key, value in row.items():
            column = str(key)
            columns.setdefault(column)
            converted[column] = stored_text(value, nested, column, index)
            if isinstance(value, str):
                with_text.add(column)
        texts.append(converted)
    if not texts:
        raise InputError("there are no rows", where=source, mend="Give at least 20 labelled rows.")
    numbers = numbers if numbers is not None else range(1, len(texts) + 1)
    return Table(tuple(columns), texts, source, numbers, unit, nested, frozenset(with_text))


def _read_file(path: Path, source: str) -> Table:
    check_file(path, source)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        from cotune.task.reading.frames import read_parquet

        return read_parquet(path, source)
    if suffix not in _TEXT_READERS:
        raise unknown_format(suffix, source, (*_TEXT_READERS, ".parquet"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the file cannot be read ({error.strerror or error})", where=source, mend="Check its permissions."
        ) from error
    return _TEXT_READERS[suffix](decode(data, source), source)


def unknown_format(suffix: str, source: str, known: Iterable[str]) -> InputError:
    """The error for a file whose ending says nothing, or that it is a spreadsheet program's own."""
    if suffix in _SPREADSHEETS:
        return InputError(
            f"a file that ends in {suffix!r} is read by spreadsheet programs alone",
            where=source,
            mend="Save the sheet as CSV in UTF-8, and give that .csv file.",
        )
    return InputError(
        f"cannot tell the format of a file that ends in {suffix!r}" if suffix else "the file name has no ending",
        where=source,
        mend=f"Rename it to what it is: {', '.join(known)}.",
    )


def check_file(path: Path, source: str) -> None:
    try:
        exists, folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(
            f"the file cannot be reached ({error})", where=source, mend="Check its path and permissions."
        ) from error
    if not exists:
        near = _nearest(path.name, _names_beside(path))
        raise InputError(
            "there is no such file" + (f", did you mean {near!r}?" if near else ""),
            where=source,
            mend="Check the path.",
        )
    if folder:
        raise InputError("this is a folder", where=source, mend="Name the data file in it.")


def _names_beside(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


def decode(data: bytes, source: str) -> str:
    if not data.strip(b" \t\r\n\0\xef\xbb\xbf"):
        raise InputError("the file is empty", where=source, mend="Give a file with labelled rows.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("the file is UTF-16, not UTF-8", where=f"{source}, line 1", mend="Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data[:start].count(b"\n") + 1
        raise InputError(
            f"the file is not UTF-8 (byte 0x{data[start]:02x})",
            where=f"{source}, line {line}",
            mend="Save it as UTF-8; files from old spreadsheets are often Windows-1252.",
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(
            "there is a NUL byte in the text",
            where=f"{source}, line {line}",
            mend="Export it again as plain UTF-8 text; this looks like a binary or UTF-16 file.",
        )
    return text


def delimiter_of(text: str) -> str:
    """What separates the cells of a CSV file: commas, or semicolons where the header has no comma."""
    first = text.split("\n", 1)[0]
    # a table with labels has two columns or more, so a header without commas is separated by something else
    return ";" if "," not in first and ";" in first else ","


def _read_csv(text: str, source: str) -> Table:
    return read_separated(text, source, delimiter_of(text))


def _read_tsv(text: str, source: str) -> Table:
    return read_separated(text, source, "\t")


def read_separated(text: str, source: str, delimiter: str, *, keep_blank: bool = False) -> Table:
    """A Table of separated cells.

    Args:
        text: the file's content.
        source: what messages call it.
        delimiter: what separates cells.
        keep_blank: make a row without cells of each blank line but the last ones, so that rows keep their places.

    Raises:
        InputError: there are no rows, or one is torn; names the line.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return _parse_separated(text, source, delimiter, keep_blank)
    finally:
        csv.field_size_limit(limit)


def _parse_separated(text: str, source: str, delimiter: str, keep_blank: bool) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[dict[str, Cell]] = []
    numbers: list[int] = []
    blank: list[int] = []
    start = 1
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
                    f"the row has {len(cells)} cells but the header has {len(header)} (the row begins with {_cut(cells[0])!r})",
                    where=f"{source}, line {line}, column {_torn_column(header, len(cells))}",
                    mend="Put double quotes around cells that hold the separator or a line break.",
                )
            rows += [dict.fromkeys(header) for _ in blank]
            numbers += [*blank, line]
            blank.clear()
            rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
    except csv.Error as error:
        _raise_csv_error(str(error), f"{source}, line {start}", error)
    if header is None:
        raise InputError("the file is empty", where=source, mend="Give a file with labelled rows.")
    if not rows:
        raise InputError("there is a header but no rows", where=source, mend="Add labelled rows below the header.")
    return Table(tuple(header), rows, source, numbers, "line")


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for position, name in enumerate(names):
        if not name:
            names[position] = f"column {position + 1}"
        if name and name in names[:position]:
            raise InputError(
                f"the header names {name!r} twice",
                where=f"{where}, column {position + 1}",
                mend="Give every column a name of its own.",
            )
    return names


def _torn_column(header: list[str], cells: int) -> str:
    return repr(header[cells]) if cells < len(header) else str(len(header) + 1)


def _raise_csv_error(problem: str, where: str, error: csv.Error) -> NoReturn:
    if "unexpected end of data" in problem:
        raise InputError(
            "a quote is opened here and never closed",
            where=where,
            mend='Close it; a double quote inside a quoted cell is written twice ("").',
        ) from error
    if "expected after" in problem:
        raise InputError(
            "a quoted cell goes on after its closing quote",
            where=where,
            mend='Write a double quote inside a quoted cell twice ("").',
        ) from error
    raise InputError(f"the row cannot be read ({problem})", where=where, mend="Correct that row.") from error


def _read_json_lines(text: str, source: str) -> Table:
    rows: list[Any] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        rows.append(parse_json_row(line, f"{source}, line {number}", "Each line must be one JSON object."))
        numbers.append(number)
    return table_from_rows(rows, source, numbers, "line")


def _read_json(text: str, source: str) -> Table:
    value = parse_json_row(text, source, "Write a list of objects, or one object a line in a .jsonl file.")
    if not isinstance(value, list):
        raise InputError(
            f"the file holds a {json_kind(value)} and not a list of rows",
            where=source,
            mend='Write [{"text": "...", "label": "..."}, ...].',
        )
    return table_from_rows(value, source)


def parse_json_row(text: str, where: str, mend: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            doubled = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the key {doubled!r} stands twice in one object", where=where, mend="Keep one of the two.")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"character {error.colno}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"
        raise InputError(f"this is not valid JSON ({error.msg} at {place})", where=where, mend=mend) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"this JSON cannot be read ({error})", where=where, mend=mend) from error


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


def _nearest(name: str, known: Iterable[str]) -> str | None:
    table = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), table, n=1, cutoff=0.6)
    return table[near[0]] if near else None


def _cut(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


_TEXT_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".tab": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
}
