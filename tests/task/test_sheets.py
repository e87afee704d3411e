"""Answers go back beside the columns of any file, whatever its other cells hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.task.reading.read import Sheet, read_sheet
from cotune.task.reading.sheet import write_sheet

HALF = "\ud83d"
ODD: dict[str, tuple[Any, str]] = {
    "half a character": (HALF, r"\ud83d"),
    "half a character in a list": ([HALF], r'["\ud83d"]'),
    "half a character as a key": ({HALF: 1}, r'{"\ud83d": 1}'),
    "a number beyond 64 bits": (2**64, str(2**64)),
    "a number beyond 64 bits in an object": ({"n": 2**70}, f'{{"n": {2**70}}}'),
    "an empty object": ({}, "{}"),
    "an empty object in a list": ([{}], "[{}]"),
    "an empty object in an object": ({"a": {}}, '{"a": {}}'),
}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("odd", ODD)
def test_cells_that_a_format_has_no_type_for_are_written_as_text(tmp_path: Path, odd: str, kind: str) -> None:
    value, text = ODD[odd]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a", "odd": value}) + "\n")
    out = tmp_path / f"answers.{kind}"
    write_sheet(read_sheet(tmp_path / "rows.jsonl"), {"answer": [value]}, out)
    if kind == "jsonl":
        found, wanted = json.loads(out.read_text()), value
    elif kind == "csv":
        (found,), wanted = csv.DictReader(out.read_text().splitlines()), text
    else:
        (found,), wanted = pq.read_table(out).to_pylist(), text
    assert found == {"text": "a", "odd": wanted, "answer": wanted}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_column_with_half_a_character_in_its_name_is_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a", HALF: "b"}) + "\n")
    out = tmp_path / f"answers.{kind}"
    write_sheet(read_sheet(tmp_path / "rows.jsonl"), {"answer": ["c"]}, out)
    columns = {
        "csv": lambda: next(csv.reader(out.read_text().splitlines())),
        "parquet": lambda: pq.read_table(out).column_names,
        "jsonl": lambda: list(json.loads(out.read_text())),
    }[kind]()
    assert columns == ["text", HALF if kind == "jsonl" else r"\ud83d", "answer"]


CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["\r", "a\rb", "\n\r", "\r\n", '"\r"', ",;\t", " "]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), kind=st.sampled_from(["csv", "tsv"]))
def test_every_text_comes_back_from_a_file_of_cells(tmp_path: Path, rows: list[tuple[str, str]], kind: str) -> None:
    out = tmp_path / f"answers.{kind}"
    sheet = Sheet(("id", "text"), [{"id": i, "text": text} for i, (text, _) in enumerate(rows)], "rows", range(1, 99))
    write_sheet(sheet, {"answer": [answer for _, answer in rows]}, out)
    found = [(row["id"], row["text"] or "", row["answer"] or "") for row in read_sheet(out).rows]
    assert found == [(str(i), text, answer) for i, (text, answer) in enumerate(rows)]
    assert b"\r\n" not in out.read_bytes() or any("\r\n" in cell for row in rows for cell in row)
