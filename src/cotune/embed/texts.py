"""The file formats that ``cotune embed`` reads and writes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError, shown_names
from cotune.files import atomic_path, decode_json
from cotune.task.reading.cells import column_of, has_half_character
from cotune.task.reading.table import Table

FORMATS = (".npy", ".parquet", ".jsonl")
TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq", ".json")
"""Endings of tables, where one column holds the texts."""
_LINE_END = re.compile("\r\n|\r|\n")
_OBJECT = re.compile(r"\{\s*(?:[\"}]|$)")
_FILL = "Fill it, take the row out, or leave such rows out: --on-blank skip."


def read_texts(text: str, source: str, *, column: str = "text", blank: bool = False) -> list[str]:
    """Texts in a file: JSON lines with a text in ``column``, or one text per line.

    A file whose first non-blank line begins like a JSON object is read as JSON lines; blank lines are skipped. Only line feeds
    and carriage returns end a line: other separators may occur inside a text.

    Args:
        blank: whether JSON lines may have a blank text, which is returned as an empty one.

    Raises:
        InputError: there are no texts, or a JSON line is invalid or has no text; the message names the line, from 1.
    """
    lines = [(number, line.strip()) for number, line in enumerate(_LINE_END.split(text.removeprefix("\ufeff")), 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise InputError("there are no texts", where=source, hint="Give one text per line, or JSON lines.")
    if not _OBJECT.match(lines[0][1]):
        if source.lower().endswith((".jsonl", ".ndjson")):
            return [_text_in(line, f"{source}, line {number}") for number, line in lines]
        return [line for _, line in lines]
    return [_text_of(line, f"{source}, line {number}", column, blank=blank) for number, line in lines]


def texts_of_table(table: Table, column: str | None, *, blank: bool = False) -> list[str]:
    """The texts of a table's column; without a name, of ``text`` or the only column.

    Args:
        blank: whether cells may be blank; their text is an empty one.

    Raises:
        InputError: the column is ambiguous or missing, or a row is blank; the message names the row.
    """
    if column is None:
        if "text" not in table.columns and len(table.columns) > 1:
            raise InputError(
                "the file has several columns, and none of them is called 'text'",
                where=table.source,
                hint=f"Name the column with the texts by --column; this file has {shown_names(table.columns)}.",
            )
        column = "text" if "text" in table.columns else table.columns[0]
    column = column_of(column, table.columns) or column
    table.need_input(column)
    texts = [_whole(table.shown(index, column) or "", table.where(index, column)) for index in range(len(table))]
    missing = [index for index, text in enumerate(texts) if not text.strip()]
    if missing and not blank:
        more = f" ({len(missing):,} rows are like this)" if len(missing) > 1 else ""
        raise InputError(f"the cell is blank{more}", where=table.where(missing[0], column), hint=_FILL)
    return ["" if not text.strip() else text for text in texts]


def _text_of(line: str, where: str, column: str, *, blank: bool) -> str:
    hint = f'Each line must be an object such as {{"{column}": "..."}}; name another key with --column.'
    try:
        row = decode_json(line)
    except ValueError as error:
        raise InputError("the line is not JSON", where=where, hint=hint) from error
    if isinstance(row, dict) and column not in row:
        column = column_of(column, tuple(row)) or column
    found = row.get(column) if isinstance(row, dict) else 0
    if found is None or (isinstance(found, str) and not found.strip()):
        if blank:
            return ""
        hint = _FILL if column in row else hint
    elif isinstance(found, str):
        return _whole(found, where)
    raise InputError(f"the line has no text in {column!r}", where=where, hint=hint)


def _text_in(line: str, where: str) -> str:
    """The text of a line of a file of JSON lines that are no objects: of a JSON string, or the line itself."""
    if line.startswith('"'):
        with suppress(ValueError):
            if isinstance(found := decode_json(line), str):
                return _whole(found, where)
    return line


def _whole(text: str, where: str) -> str:
    if has_half_character(text):
        what = "there is half a character (a lone surrogate) in the text"
        raise InputError(what, where=where, hint="Write the whole character.")
    return text


def write_vectors(path: Path, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Write vectors in the order of their texts: ``.npy`` without, ``.parquet`` and ``.jsonl`` with the texts.

    Raises:
        InputError: the file cannot be written.
    """
    kind = path.suffix.lower()
    with atomic_path(path) as temporary:
        if kind == ".npy":
            buffer = io.BytesIO()
            np.save(buffer, vectors, allow_pickle=False)
            temporary.write_bytes(buffer.getvalue())
        elif kind == ".jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                for text, vector in zip(texts, vectors, strict=True):
                    row = {"text": text, "vector": [round(float(x), 6) for x in vector]}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            flat = pa.array(vectors.ravel(), type=pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            pq.write_table(pa.table({"text": pa.array(texts), "vector": column}), temporary)
