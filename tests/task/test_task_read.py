"""Whatever is written to a file or put in a frame comes back the same, and messages know the rows."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings

from cotune.errors import InputError
from cotune.task.reading.cells import NESTED, cell_text
from cotune.task.reading.hub import _readings
from cotune.task.reading.read import read_sheet, read_table
from cotune.task.reading.sheet import sheet_text

CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=0, max_size=20) | st.sampled_from(
    ['"', '""', "a,b", "x\ty", "two\nlines", "cr\r\nlf", "\r", ";", "\u2028", "é", "  ", "😀", "null", "﻿x"]
)
NAMES = st.lists(st.text("abcXYZ_é 1", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=2, max_size=4, unique=True)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    names = draw(NAMES)
    rows = draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    return names, rows


def expected(names: list[str], rows: list[list[str]]) -> list[dict[str, str | None]]:
    return [{name: cell or None for name, cell in zip(names, row, strict=True)} for row in rows]


@FAST
@given(table=tables(), kind=st.sampled_from([".csv", ".tsv"]), bom=st.booleans(), line=st.sampled_from(["\n", "\r\n"]))
def test_separated_files_come_back_as_written(
    tmp_path: Path, table: tuple[list[str], list[list[str]]], kind: str, bom: bool, line: str
) -> None:
    names, rows = table
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="," if kind == ".csv" else "\t", lineterminator=line, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    path = tmp_path / f"rows{kind}"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())
    read = read_table(path)
    assert read.columns == tuple(names)
    assert list(read.rows) == expected(names, rows)


@FAST
@given(table=tables(), ascii_only=st.booleans(), gaps=st.booleans())
def test_json_lines_come_back_as_written(
    tmp_path: Path, table: tuple[list[str], list[list[str]]], ascii_only: bool, gaps: bool
) -> None:
    names, rows = table
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(("\n\n" if gaps else "\n").join(lines).encode())
    read = read_table(path)
    assert list(read.rows) == expected(names, rows)
    assert list(read.numbers) == [1 + index * (2 if gaps else 1) for index in range(len(rows))]


@FAST
@given(table=tables())
def test_parquet_frames_and_lists_come_back_as_written(tmp_path: Path, table: tuple[list[str], list[list[str]]]) -> None:
    names, rows = table
    columns = {name: [row[position] for row in rows] for position, name in enumerate(names)}
    arrow = pyarrow.table(columns)
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(arrow, path)
    records = [dict(zip(names, row, strict=True)) for row in rows]
    for source in (path, arrow, pandas.DataFrame(columns), polars.DataFrame(columns), polars.LazyFrame(columns), records):
        read = read_table(source)
        assert read.columns == tuple(names)
        assert list(read.rows) == expected(names, rows)


def test_one_value_has_one_text_in_every_format(tmp_path: Path) -> None:
    records = [{"whole": 3, "real": 2.5, "truth": True, "none": None, "text": "a"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(records[0]))
    (tmp_path / "rows.json").write_text(json.dumps(records))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "rows.parquet")
    wanted = {"whole": "3", "real": "2.5", "truth": "true", "none": None, "text": "a"}
    sources = (
        tmp_path / "rows.jsonl",
        tmp_path / "rows.json",
        str(tmp_path / "rows.parquet"),
        pandas.DataFrame(records),
        polars.DataFrame(records),
        records,
    )
    for source in sources:
        assert read_table(source).rows[0] == wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(4), "4"),
        (np.float32(0.5), "0.5"),
        (np.float32(0.1), "0.1"),
        (np.float16("nan"), None),
        (np.datetime64("2024-01-02T03:04:05", "ns"), "2024-01-02T03:04:05.000000000"),
        (np.bool_(False), "false"),
        (np.str_("x"), "x"),
        (float("nan"), None),
        (pandas.NA, None),
        (pandas.NaT, None),
        (np.datetime64("NaT"), None),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ("", None),
        (" ", " "),
        ([1], NESTED),
        ({"a": 1}, NESTED),
        (b"raw", NESTED),
        (datetime.timedelta(hours=1), "1:00:00"),
        (pandas.Interval(0, 20), "(0, 20]"),
        (pandas.Period("2020-01", "M"), "2020-01"),
    ],
)
def test_cell_text(value: object, text: object) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_numbers_of_less_precision_are_read_by_their_shortest_text(tmp_path: Path, kind: str) -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"x": pyarrow.array(np.array([0.1, 4.7], dtype=kind))}), tmp_path / "rows.parquet"
    )
    frames = [pandas.DataFrame({"x": np.array([0.1, 4.7], dtype=kind)})]
    frames += [polars.DataFrame({"x": [0.1, 4.7]}, schema={"x": polars.Float32})] if kind == "float32" else []
    for source in (tmp_path / "rows.parquet", *frames):
        assert [row["x"] for row in read_table(source).rows] == ["0.1", "4.7"]
    gaps = pandas.DataFrame({"x": pandas.array([0.1, None], dtype="Float32")})
    assert [row["x"] for row in read_table(gaps).rows] == ["0.1", None]
    arrow = pandas.DataFrame({"x": pandas.array([0.1, None], dtype=pandas.ArrowDtype(pyarrow.from_numpy_dtype(kind)))})
    assert [row["x"] for row in read_table(arrow).rows] == ["0.1", None]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pyarrow.timestamp("us"), 10**18, "<value out of range: 1000000000000000000>"),
        (pyarrow.date32(), 10**7, "29349-01-26"),
        (pyarrow.timestamp("ns"), 1_234_567_890_123_456_789, "2009-02-13T23:31:30.123456789"),
    ],
)
def test_dates_out_of_range_are_read_as_text(tmp_path: Path, kind: pyarrow.DataType, value: int, text: str) -> None:
    whole = pyarrow.int32() if kind == pyarrow.date32() else pyarrow.int64()
    table = pyarrow.table({"text": ["a", "b"], "when": pyarrow.array([value, None], whole).cast(kind)})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for source in (table, tmp_path / "rows.parquet"):
        assert [row["when"] for row in read_table(source).rows] == [text, None]
    # A column keeps the form of its other values.
    mixed = pyarrow.table({"when": pyarrow.array([0, 10**18], pyarrow.int64()).cast(pyarrow.timestamp("us"))})
    assert read_table(mixed).rows[0]["when"] == "1970-01-01T00:00:00"


def test_a_parquet_column_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    torn = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(np.array([0, 1], np.int32)), pyarrow.py_buffer(b"\xff"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "torn": torn}), path)
    with pytest.raises(InputError, match=r"rows\.parquet, column 'torn': the column holds values that cannot be read"):
        read_table(path)
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([torn.cast("binary")] * 2, names=["a", "a"]), path)
    for read in (read_table, read_sheet):
        with pytest.raises(InputError, match="two columns are named 'a'"):
            read(path)


def test_a_row_is_known_by_the_line_it_begins_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"one\nstill one\n",a\n\ntwo,b\n   \nthree,c\n')
    table = read_table(path)
    assert [table.where(index) for index in range(3)] == [f"{path}, line {line}" for line in (2, 6, 8)]


def test_a_spreadsheet_with_semicolons_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text;label\n"a; b, c";x\n')
    assert read_table(path).rows[0] == {"text": "a; b, c", "label": "x"}


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ('"Name, Vorname";Text;Label\nA;b;c\n', ("Name, Vorname", "Text", "Label"), "A"),
        ('"Name\nVorname";Text\nA;b, c\n', ("Name\nVorname", "Text"), "A"),
        ("text\tlabel, ok\na\tb\n", ("text", "label, ok"), "a"),
        ("Betrag, EUR;Text;Label\n1,5;a;b\n2,5;c;d\n", ("Betrag, EUR", "Text", "Label"), "1,5"),
        ("text,a;b\nx;y,z\n", ("text", "a;b"), "x;y"),
        ("\n\ntext;label\na;b\n", ("text", "label"), "a"),
        ("text,label\n" + 'a;b,"' + "x" * 200_000 + '"\n', ("text", "label"), "a;b"),
    ],
)
def test_the_separator_is_the_one_that_cuts_all_rows_alike(
    tmp_path: Path, text: str, columns: tuple[str, ...], first: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    table = read_table(path)
    assert table.columns == columns and table.rows[0][columns[0]] == first


def test_a_torn_row_of_a_file_with_commas_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label;more\na,b\nc;d\n")
    with pytest.raises(InputError, match="the row has 1 cells but the header has 2"):
        read_table(path)


@pytest.mark.parametrize("first", ["text|label", "# exported in May"])
def test_a_header_that_does_not_separate_columns_is_quoted(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{first}\na, b|c\n")
    with pytest.raises(InputError, match=rf"names only one column, {re.escape(repr(first))}.*sep=\|"):
        read_table(path)
    path.write_text("sep=|\ntext|label\na, b|c\n")
    assert read_table(path).rows == [{"text": "a, b", "label": "c"}]


def test_a_spreadsheet_with_tabs_is_read_whatever_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\tlabel\na; b, c\tx\n")
    assert read_table(path).rows[0] == {"text": "a; b, c", "label": "x"}


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_the_first_line_may_declare_the_delimiter(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(f"{first}\r\ntext;label\r\na, b, c;x\r\nd, e;y\r\n".encode())
    table = read_table(path)
    assert table.columns == ("text", "label") and table.rows[1] == {"text": "d, e", "label": "y"}
    assert (table.where(0), read_sheet(path).delimiter) == (f"{path}, line 3", ";")
    path.write_text("sep=|\ntext|label\na, b; c|x\n")
    assert read_table(path).rows == [{"text": "a, b; c", "label": "x"}]
    # What is written in the form of such a file declares it too.
    path.write_text(sheet_text(read_sheet(path), {"answer": ["y"]}, ".csv"))
    assert read_table(path).rows == [{"text": "a, b; c", "label": "x", "answer": "y"}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / ("rows.tsv" if delimiter == "\t" else "rows.csv")
    path.write_bytes(f"text{delimiter}label\rhello{delimiter}a\rbye{delimiter}b\r".encode())
    assert read_table(path).rows == [{"text": "hello", "label": "a"}, {"text": "bye", "label": "b"}]


@pytest.mark.parametrize("header", ['"text", "label"', "text, label", '"text",  "label"'])
def test_quotes_behind_a_blank_are_quotes(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + '\n"one, two", "x, y"\nthree, "say ""z"""\n')
    assert [tuple(row.values()) for row in read_table(path).rows] == [("one, two", "x, y"), ("three", 'say "z"')]
    path.write_text('text,label\n" ""a""",b\n')
    assert read_table(path).rows == [{"text": ' "a"', "label": "b"}]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("column 2,,text", ("column 2", "column 2_2", "text")),
        (",column 1,text", ("column 1_2", "column 1", "text")),
        ("a,,", ("a", "column 2", "column 3")),
    ],
)
def test_a_column_without_a_name_takes_none_from_another(tmp_path: Path, header: str, columns: tuple[str, ...]) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\n1,2,3\n")
    table = read_table(tmp_path / "rows.csv")
    assert table.columns == columns and list(table.rows[0].values()) == ["1", "2", "3"]


def test_a_cell_beyond_the_csv_modules_limit_is_read_and_the_limit_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{'x' * 300_000},a\n")
    assert len(read_table(path).rows[0]["text"] or "") == 300_000
    assert csv.field_size_limit() == before


def test_nested_values_are_shown_as_inputs_and_refused_elsewhere() -> None:
    table = read_table([{"text": "a", "tokens": "b"}, {"text": "b", "tokens": ["a", 1]}])
    table.need("text")
    table.need_input("tokens")
    assert [table.shown(index, "tokens") for index in range(2)] == ["b", "a, 1"]
    with pytest.raises(InputError, match=r"row 2, column 'tokens'.*list or an object.*Flatten"):
        table.need("tokens")
    bytes_too = read_table([{"text": "a"}, {"text": b"a"}])
    with pytest.raises(InputError, match=r"row 2, column 'text'.*cannot be written as text"):
        bytes_too.need_input("text")


@pytest.mark.parametrize("kind", ["list", "pandas", "polars", "pyarrow", "parquet", "jsonl"])
def test_lists_are_shown_alike_wherever_they_come_from(tmp_path: Path, kind: str) -> None:
    rows = [{"slots": ["time", "day"], "deep": [["a"], []]}, {"slots": [], "deep": [["b, c"]]}, {"slots": None, "deep": None}]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    frames = {"list": list, "pandas": pandas.DataFrame, "polars": polars.DataFrame, "pyarrow": pyarrow.Table.from_pylist}
    table = read_table(frames[kind](rows) if kind in frames else path)
    assert [table.shown(index, "slots") for index in range(3)] == ["time, day", "none", None]
    assert [table.shown(index, "deep") for index in range(3)] == ['[["a"], []]', '[["b, c"]]', None]


def test_pandas_index_does_not_matter() -> None:
    frame = pandas.DataFrame({"text": ["a", "b"]}, index=[7, 7])
    assert [row["text"] for row in read_table(frame).rows] == ["a", "b"]


def test_pandas_frame_with_two_columns_alike_is_refused() -> None:
    frame = pandas.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(InputError, match="two columns are named 'text'"):
        read_table(frame)


def test_a_data_sets_class_numbers_become_names() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])})
    found = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    assert [row["label"] for row in read_table(found).rows] == ["spam", "ham", None]


def test_a_data_sets_images_are_not_decoded() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    column = pyarrow.array([{"bytes": b"no image", "path": None}] * 2, features.arrow_schema.field("image").type)
    table = pyarrow.table({"text": ["a", "b"], "image": column})
    found = read_table(datasets.Dataset(table, info=datasets.DatasetInfo(features=features)))
    assert [row["text"] for row in found.rows] == ["a", "b"]
    with pytest.raises(InputError, match="column 'image': the cell holds a value such as bytes, not a text"):
        found.need("image")


def test_a_data_sets_numbers_of_single_precision_are_the_shortest() -> None:
    import datasets

    features = datasets.Features(
        {"x": datasets.Value("float32"), "y": datasets.Value("float16"), "z": [datasets.Value("int8")]}
    )
    found = datasets.Dataset.from_dict({"x": [0.1, None], "y": [4.7, 0.5], "z": [[1], []]}, features=features)
    assert [(row["x"], row["y"]) for row in read_table(found).rows] == [("0.1", "4.7"), (None, "0.5")]


def test_a_data_set_in_a_folder_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"text": split, "label": "a"}) + "\n")
    assert read_table(f"hf://{folder}").rows[0]["text"] == "train"
    assert read_table(f"hf://{folder}", default_split="test").rows[0]["text"] == "test"
    assert read_table(f"hf://{folder}:test").rows[0]["text"] == "test"
    with pytest.raises(InputError, match=r"hf://.*:nosuch: the data set cannot be loaded \(ValueError: Unknown split"):
        read_table(f"hf://{folder}:nosuch")


def test_hub_names_have_the_likelier_reading_first() -> None:
    assert _readings("imdb") == [("imdb", None)]
    assert _readings("owner/set") == [("owner/set", None), ("owner", "set")]
    assert _readings("owner/set/config") == [("owner/set", "config")]
