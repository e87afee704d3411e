"""An export's own Python shows a row's values as the bundle does, though it does without cotune."""

from __future__ import annotations

import ast
import datetime
import decimal
import enum
import inspect
import sys
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cotune.bundle.rows import checked_row
from cotune.errors import InputError
from cotune.task.reading import cells
from cotune.task.reading.cells import NESTED, input_text, row_texts
from cotune.task.reading.field_names import field_names


class Colour(enum.Enum):
    RED = "red"


DAY = datetime.datetime(2026, 1, 2, 3, 4)
SINGLE: list[Any] = [
    *("text", "", "größer", 7, True, 0.1, float("nan"), float("inf"), None, Colour.RED, uuid.UUID(int=7)),
    *(decimal.Decimal("1E+2"), decimal.Decimal("NaN"), DAY, DAY.date(), DAY.time(), pd.NA, pd.NaT, pd.Timestamp(DAY)),
    *(np.True_, np.int64(7), np.float32(0.1), np.float16("nan"), np.float64(0.1), np.str_("a"), np.datetime64("2026-01-02")),
    np.array(7),
]
VALUES = [
    *SINGLE,
    *([value, "b"] for value in SINGLE),
    # JSON has no NaN and no infinity.
    *({"d": value} for value in SINGLE if not isinstance(value, (float, np.floating)) or np.isfinite(value)),
    *([], (), [[]], {}, ["a", ["b"]], [{"a": (1, None)}], np.array(["a", "b"]), [np.array([1, 2])], np.array([[1.5, 2.0]])),
]


def test_values_are_shown_as_by_the_bundle() -> None:
    for value in VALUES:
        wanted = input_text(value)
        assert wanted is not NESTED, repr(value)
        assert row_texts({"a": value}, ["a"])["a"] == (wanted or ""), repr(value)
    for value in (b"a", {1, 2}, [b"a"], {"a": object()}):
        assert input_text(value) is NESTED
        with pytest.raises(TypeError, match="cannot be converted to text"):
            row_texts({"a": value}, ["a"])


def test_a_row_may_have_the_headers_of_its_file() -> None:
    row = {
        "id": 5,
        "Customer message": "hello",
        "2nd": 2.5,
        "Größe (cm)": None,
        "文本": "x",
        "a b": 1,
        "a-b": 2,
        "?": 3,
        "id!": 4,
    }
    fields = [*field_names(row).values()]
    assert row_texts(row, fields) == checked_row(row, fields, "row 1")
    assert row_texts({"2nd": 1}, ["_2nd"]) == row_texts("1", ["_2nd"]) == {"_2nd": "1"}
    assert row_texts({"2nd": 1, "_2nd": 3}, ["_2nd"]) == {"_2nd": "3"}, "the field's own name comes first"
    for other in ({"2nd?": 1, "2nd!": 2}, {"nd": 1}):
        with pytest.raises(KeyError, match="_2nd"):
            row_texts(other, ["_2nd"])
        with pytest.raises(InputError, match="no field '_2nd'"):
            checked_row(other, ["_2nd"], "row 1")


def test_the_file_that_exports_contain_imports_nothing_of_cotune() -> None:
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(cells))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    assert names and {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
