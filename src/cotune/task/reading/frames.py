"""Reading Parquet files and pandas, polars and pyarrow frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cotune.errors import InputError
from cotune.task.reading.table import Table, table_from_rows

_ARROW_NAMES = {"halffloat": "float16", "float": "float32"}
"""Arrow's names of types of less than double precision; pandas adds ``[pyarrow]``."""


def is_frame(value: Any) -> bool:
    """Whether ``value`` is a pandas, polars or pyarrow table; imports none of them."""
    home = type(value).__module__.split(".")[0]
    return (home, type(value).__name__) in {
        ("pandas", "DataFrame"),
        ("polars", "DataFrame"),
        ("polars", "LazyFrame"),
        ("pyarrow", "Table"),
    }


def read_frame(frame: Any, name: str | None = None) -> Table:
    """A Table from a frame; rows are numbered from 1, whatever the frame's index.

    Raises:
        InputError: if the frame has no rows or two columns of the same name.
    """
    home = type(frame).__module__.split(".")[0]
    source = name or f"the {home} frame"
    if home == "polars":
        frame = frame.lazy().collect()
        columns = [(column.name, shortest(column.to_list(), str(column.dtype))) for column in frame.get_columns()]
        return table_from_columns(columns, source)
    if home == "pyarrow":
        return table_from_columns(_arrow_columns(frame, source), source)
    # by position, since a frame may name two columns alike
    found = [(str(column), frame.iloc[:, position]) for position, column in enumerate(frame.columns)]
    return table_from_columns([(name, shortest(column.tolist(), str(column.dtype))) for name, column in found], source)


def parquet_columns(path: Path, source: str) -> tuple[Any, list[tuple[str, list[Any]]]]:
    """The pyarrow table of a Parquet file, and its named columns of Python values.

    Raises:
        InputError: if the file is empty or damaged, or two columns have the same name.
    """
    import pyarrow
    import pyarrow.parquet

    if path.stat().st_size == 0:
        raise InputError("the file is empty", where=source, hint="Give a file with rows.")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"the file is not readable Parquet ({str(error).splitlines()[0][:120]})",
            where=source,
            hint="Write it again, or check that the download was complete and its permissions.",
        ) from error
    _check_names(table.column_names, source)
    return table, _arrow_columns(table, source)


def _arrow_columns(table: Any, source: str) -> list[tuple[str, list[Any]]]:
    named = zip(table.column_names, table.columns, strict=True)
    return [(name, shortest(_arrow_values(column, name, source), str(column.type))) for name, column in named]


def _arrow_values(column: Any, name: str, source: str) -> list[Any]:
    import pyarrow

    unreadable = (OverflowError, ValueError, pyarrow.ArrowException)
    dates = pyarrow.types.is_timestamp(column.type) or pyarrow.types.is_date(column.type)

    def value(scalar: Any) -> Any:
        try:
            return scalar.as_py()
        except unreadable:
            # Python has no dates after the year 9999, and nanoseconds only with pandas.
            return scalar.cast(pyarrow.string()).as_py()

    values: list[Any]
    try:
        try:
            values = column.to_pylist()
        except unreadable:
            if not dates:
                raise
            values = [value(scalar) for scalar in column]
    except unreadable as error:
        raise InputError(
            f"the column holds values that cannot be read ({str(error).splitlines()[0][:120]})",
            where=f"{source}, column {name!r}",
            hint="Correct the column, or leave it out.",
        ) from error
    return values


def shortest(values: list[Any], kind: str) -> list[Any]:
    """The values of a column; those of half and single precision as the double with the same shortest text.

    As a double, 0.1 in single precision would be read as 0.10000000149011612.
    """
    kind = kind.removesuffix("[pyarrow]")
    kind = _ARROW_NAMES.get(kind, kind).lower()
    if kind not in ("float16", "float32"):
        return values
    single = np.dtype(kind).type
    return [float(str(single(value))) if isinstance(value, float) else value for value in values]


def table_from_columns(columns: Iterable[tuple[str, list[Any]]], source: str) -> Table:
    """A Table from named columns of values.

    Raises:
        InputError: if there are no rows, or two columns have the same name.
    """
    columns = list(columns)
    names = [name for name, _ in columns]
    _check_names(names, source)
    rows = zip(*(values for _, values in columns), strict=True)
    return table_from_rows((dict(zip(names, row, strict=True)) for row in rows), source)


def _check_names(names: Iterable[str], source: str) -> None:
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"two columns are named {doubled[0]!r}", where=source, hint="Give every column its own name.")
