"""The pool of unlabelled rows: a file, or a folder in which a server collected requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotune.bundle.collect import collected_files
from cotune.errors import InputError, shown_names
from cotune.files import absolute, decode_json, file_sha256
from cotune.task.reading.read import Sheet, check_file, read_sheet


def read_pool(pool: Path, input_fields: Sequence[str]) -> Sheet:
    """Read the rows of a file, or those that ``cotune serve --collect`` wrote to a folder, the newest first."""
    if not pool.is_dir():
        return read_sheet(pool)
    rows: list[dict[str, Any]] = []
    for path in collected_files(pool):
        for line in path.read_bytes().split(b"\n"):
            try:
                row = decode_json(line)["row"]
            except (ValueError, KeyError, TypeError):
                # An incomplete line: a server is writing it, or was killed while writing.
                continue
            # The folder may also hold rows of another task's bundle.
            if isinstance(row, dict) and set(input_fields) <= set(row):
                rows.append({name: row[name] for name in input_fields})
    if not rows:
        # A server of several bundles writes to a folder for each.
        inner = sorted(path.name for path in pool.iterdir() if path.is_dir() and collected_files(path))
        raise InputError(
            "no rows of this task were collected in the folder",
            where=str(pool),
            hint=f"It holds the folders {shown_names(inner)}, one for each bundle that was served: name one of them."
            if inner
            else "Give a file of rows, or a folder that cotune serve --collect wrote to.",
        )
    rows.reverse()
    return Sheet(tuple(input_fields), rows, str(pool), range(1, len(rows) + 1))


def identity_of(pool: Path) -> str:
    """Identify a pool, by the content hash of a file or by the path of a folder, since a folder may grow."""
    if pool.is_dir():
        return absolute(pool.resolve())
    check_file(pool, str(pool))
    return file_sha256(pool)
