"""Columns as spreadsheets have them: odd headers, numbers with units and decimal commas, labels that were numbers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cotune.bundle.manifest import Manifest
from cotune.bundle.scored import LabelledRows
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.assemble import Source, assemble
from cotune.task.example import group_of
from cotune.task.known import Known
from cotune.task.reading.cells import column_of, is_field_name
from cotune.task.reading.field_names import field_names
from cotune.task.reading.read import read_table
from cotune.task.reading.table import table_from_rows
from cotune.task.values.label_type import label_type, label_value
from cotune.task.values.number_style import NumberStyle, number_style
from cotune.task.values.output import Output


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (("text", "Label 2"), ("text", "Label_2")),
        (("Customer message", "Customer_message"), ("Customer_message_4bf7e8", "Customer_message")),
        (("Überschrift", "2nd", "?", "文本", "Текст 2"), ("Überschrift", "_2nd", "text_8a8de8", "文本", "Текст_2")),
        (("labels?", "a-b", "a b"), ("labels_36a60e", "a_b_d44362", "a_b_c8687a")),
        # Letters in two parts, as macOS writes them, and marks that a name cannot have.
        (("U\u0308berschrift", "पाठ"), ("Überschrift", "प_ठ_35bebb")),
    ],
)
def test_field_names(columns: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(field_names(columns).values()) == names


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_every_column_gets_a_field_name_of_its_own(columns: list[str]) -> None:
    names = field_names(columns)
    assert list(names) == columns and len(set(names.values())) == len(columns)
    assert all(map(is_field_name, names.values()))
    assert all(names[column] == column for column in columns if is_field_name(column))


@given(st.lists(st.text(min_size=1), unique=True, max_size=8), st.randoms())
def test_names_and_what_they_find_do_not_depend_on_the_order_of_columns(columns: list[str], random: Random) -> None:
    assume(len({unicodedata.normalize("NFKC", column).strip() for column in columns}) == len(columns))
    names, other = field_names(columns), random.sample(columns, len(columns))
    assert field_names(other) == names
    assert all(column_of(name, other) == column for column, name in names.items())


def rows(count: int, outputs: Sequence[Any], field: str = "the text", start: int = 0) -> list[dict[str, Any]]:
    return [{field: f"row {i} of {i % 7}", "out": outputs[i % len(outputs)]} for i in range(start, start + count)]


def test_a_test_file_may_call_the_column_by_its_field_name() -> None:
    test, dev = rows(30, "ab", "the_text", 100), rows(25, "ab", start=200)
    found = Task.from_frame(rows(60, "ab"), input="the text", output="out", test=test, dev=dev)
    assert found.input_fields == ("the_text",) and "{the_text}" in found.checks["renamed_columns"].message
    assert all(set(row.fields) == {"the_text"} for row in (*found.train, *found.dev))
    named = Task.from_frame(rows(60, "ab"), input="the_text", output="out")
    assert named.input_fields == ("the_text",)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (("3,5", "1.234", "12"), ("3.5", "1234", "12")),
        (("12 kg", "3.5 kg", "-1 kg"), ("12", "3.5", "-1")),
        (("€ 1.234,50", "€ -3,00"), ("1234.50", "-3.00")),
        (("1 234,5 EUR", "7 EUR"), ("1234.5", "7")),
        (("1\u202f234", "5"), ("1234", "5")),
        (("12%", "3 %"), ("12", "3")),
        (("$1,200.50", "$3"), ("1200.50", "3")),
        (("20 min", "1 min"), ("20", "1")),
        (("0,125", "1,500"), ("0.125", "1.5")),
    ],
)
def test_numbers_as_spreadsheets_write_them(cells: tuple[str, ...], numbers: tuple[str, ...]) -> None:
    style = number_style(cells)
    assert style is not None and tuple(map(style.read, cells)) == tuple(map(Decimal, numbers))


@pytest.mark.parametrize(
    "cells",
    [
        ("1,234", "2,500"),  # plain: thousands
        ("1", "2.5"),
        ("3 kg", "5 g"),
        ("3 kg", "5"),
        ("3,5", "2.25"),
        ("room 12", "room 13"),
        ("2024-01-02", "2024-01-03"),
        ("12:30", "12:45"),
        ("1.2.3", "1.2.4"),
        ("1,2,3", "1,2,4"),
        ("12 34", "5"),
        ("0 125", "5"),
        ("a", "b"),
        (),
    ],
)
def test_what_has_no_style_of_numbers(cells: tuple[str, ...]) -> None:
    assert number_style(cells) is None


def test_a_style_is_told_and_a_cell_in_another_is_refused() -> None:
    written = [f"{i},5 kg" for i in range(40)]
    found = Task.from_frame(rows(120, written), input="the text", output="out")
    assert found.output.type == "number" and all(row.output.endswith(".5") for row in found.train)
    told = found.checks["number_style"].message
    assert "decimal commas" in told and "'kg'" in told and "('0,5 kg' is 0.5)" in told
    with pytest.raises(InputError, match=r"row 3, column 'out': '7 g' is not a number in this column's format"):
        bad = [*rows(2, ["1 kg"]), {"the text": "x", "out": "7 g"}]
        Task.from_frame(rows(120, written), input="the text", output="out", test=bad)
    with pytest.raises(InputError, match="read only if all cells have the same"):
        Task.from_frame(rows(120, [*written, "9 g"]), input="the text", output="out", type="number")


def test_a_few_cells_are_read_in_the_format_of_the_rows_that_a_bundle_was_made_from(tmp_path: Path) -> None:
    trained = Task.from_frame(rows(120, [f"{i}.{i + 100},50 €" for i in range(1, 41)]), input="the text", output="out")
    stored = Output.from_json(json.loads(json.dumps(trained.output.to_json())))
    assert stored == trained.output and stored.style == NumberStyle(decimal_comma=True, unit="€")
    # Alone, these would be numbers with a decimal point.
    ambiguous = ["1.500 €", "2.250 €"]
    manifest = SimpleNamespace(
        input_fields=("the_text",), output_field="out", output=stored, named_metric="r2", metric="r2", output_columns=()
    )
    scored = LabelledRows.of(table_from_rows(rows(4, ambiguous), "rows"), cast("Manifest", manifest))
    assert {row.output for row in scored.rows} == {"1500", "2250"}
    source = Source(table_from_rows(rows(60, ambiguous), "rows"), None, None, ("the text",), "out", known=Known(stored))
    assert {row.output for row in assemble(source, None).train} == {"1500", "2250"}
    plain = Source(table_from_rows(rows(60, [1.5, 2.25]), "rows"), None, None, ("the text",), "out", known=Known(stored))
    assert {row.output for row in assemble(plain, None).train} == {"1.5", "2.25"}


@pytest.mark.parametrize("style", [{}, {"decimal_comma": 1, "unit": ""}, {"decimal_comma": True, "unit": None}, "€"])
def test_an_invalid_number_format_of_a_bundle_is_refused(style: Any) -> None:
    with pytest.raises(InputError, match="number format"):
        Output.from_json({"type": "number", "schema": {"type": "number"}, "style": style})
    with pytest.raises(InputError, match="has no number format"):
        Output.from_json({"type": "label", "labels": ["a", "b"], "style": {"decimal_comma": True, "unit": ""}})


@pytest.mark.parametrize(
    ("labels", "kind", "values"),
    [
        (("0", "1", "-2"), "int", (0, 1, -2)),
        (("true", "false"), "bool", (True, False)),
        (("TRUE", "FALSE"), "bool", (True, False)),
        (("1.0", "2.5"), "float", (1.0, 2.5)),
        (("007", "1"), "text", ("007", "1")),
        (("1.50", "2.5"), "text", ("1.50", "2.5")),
        (("true", "True"), "text", ("true", "True")),
        (("1", "b"), "text", ("1", "b")),
        (("true", "1"), "text", ("true", "1")),
    ],
)
def test_label_types(labels: tuple[str, ...], kind: Any, values: tuple[Any, ...]) -> None:
    assert label_type(labels) == kind
    found = tuple(label_value(label, kind) for label in labels)
    assert found == values and list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    ("outputs", "kind", "own"),
    [
        ((0, 1), "int", [0, 1]),
        ((True, False), "bool", [False, True]),
        (("0", "1"), "text", ["0", "1"]),
        ((0, "1"), "text", ["0", "1"]),
        ((0.5, 1.0), "float", [0.5, 1.0]),
    ],
)
def test_a_task_knows_what_its_labels_were(outputs: tuple[Any, ...], kind: str, own: list[Any]) -> None:
    output = Task.from_frame(rows(60, outputs), input="the text", output="out").output
    assert output.label_type == kind and Output.from_json(output.to_json()) == output
    found = [output.own(label) for label in output.labels]
    assert found == own and list(map(type, found)) == list(map(type, own))


def test_blank_rows_are_left_out_where_that_is_asked() -> None:
    blank = [*rows(60, "ab"), {"the text": " ", "out": "a"}, {"the text": "x", "out": None}]
    with pytest.raises(InputError, match=r"data\.on_blank=skip"):
        Task.from_frame(blank, input="the text", output="out")
    found = Task.from_frame(blank, input="the text", output="out", test=blank[30:], on_blank="skip")
    assert found.test.n == 30 and found.checks.counts["blank_rows_skipped"] == 4
    assert found.checks["blank_rows"].count == 4 and not found.checks["blank_rows"].examples


def test_a_row_keeps_its_number_where_blank_rows_before_it_were_left_out() -> None:
    test = [
        {"the text": " ", "out": "a"},
        {"the text": "x", "out": ""},
        *rows(24, "ab", start=100),
        {"the text": "y", "out": "c"},
    ]
    with pytest.raises(InputError, match=r"row 27, column 'out': the test label 'c' has no train row"):
        Task.from_frame(rows(60, "ab"), input="the text", output="out", test=test, on_blank="skip")


def test_blank_rows_of_two_tables_of_one_name_are_all_counted() -> None:
    blank = {"the text": "", "out": "a"}
    train, test = [*rows(60, "ab"), blank, blank], [*rows(24, "ab", start=100), blank]
    tables = (table_from_rows(part, "rows.csv") for part in (train, test))
    found = Task.from_frame(next(tables), test=next(tables), input="the text", output="out", on_blank="skip")
    assert found.checks.counts["blank_rows_skipped"] == 3 and "3 of rows.csv" in found.checks["blank_rows"].message


def test_a_column_may_be_input_and_group_whatever_its_header() -> None:
    found = Task.from_frame(rows(60, "ab"), input="the text", output="out", group="the text", dev=rows(20, "ab", start=60))
    assert found.input_fields == ("the_text",)
    assert all(row.group == row.fields["the_text"] for row in (*found.train, *found.dev))


def test_output_and_group_may_be_encoded_otherwise_than_in_the_file() -> None:
    def content(form: Literal["NFC", "NFD"], start: int = 0) -> list[dict[str, Any]]:
        names = [unicodedata.normalize(form, name) for name in ("Größe (cm)", "Gerät")]
        return [{"text": f"row {i}", names[0]: "ab"[i % 2], names[1]: f"g{i // 2}"} for i in range(start, start + 60)]

    named = {"input": "text", "output": "Größe (cm)", "group": "Gerät"}
    one = Task.from_frame(content("NFC"), test=content("NFC", 100), **named)
    other = Task.from_frame(content("NFD"), test=content("NFC", 100), **named)
    assert one.fingerprint == other.fingerprint and other.output_field == named["output"]
    with pytest.raises(InputError, match="there is no column 'Größe'"):
        Task.from_frame(content("NFD"), input="text", output="Größe")


@pytest.mark.parametrize("role", ["dev", "test"])
def test_a_file_without_labels_is_refused_though_blank_rows_are_left_out(role: str) -> None:
    unlabelled: dict[str, Any] = {role: [{**row, "out": ""} for row in rows(24, "ab", start=100)]}
    with pytest.raises(InputError, match=f"{role} rows, column 'out': no row has both an input and an output") as found:
        Task.from_frame(rows(60, "ab"), input="the text", output="out", on_blank="skip", **unlabelled)
    assert "leave the file out" in found.value.hint


def test_whole_numbers_are_one_group_however_a_frame_writes_them() -> None:
    def grouped(start: int, write: type[int] | type[float]) -> list[dict[str, Any]]:
        return [{**row, "who": write(i // 4)} for i, row in enumerate(rows(80, "ab", start=start))]

    found = Task.from_frame(grouped(0, int), test=grouped(100, float), input="the text", output="out", group="who")
    groups = {"5.0": "5", "-7.00": "-7", "v1.0": "v1.0", "1.0.0": "1.0.0", "5.5": "5.5", " ": None}
    assert {cell: group_of(cell) for cell in groups} == groups
    assert found.checks["groups_across_test"].count + found.checks["groups_across_dev_and_test"].count == 20


def test_rows_whose_group_is_blank_have_none() -> None:
    grouped = [{**row, "who": (" ", "", None, "x")[i % 4]} for i, row in enumerate(rows(60, "ab"))]
    found = Task.from_frame(grouped, input="the text", output="out", group="who")
    assert {row.group for row in found.train} == {None, "x"}


@pytest.mark.parametrize(("cells", "labels"), [(("True", "False"), ("False", "True")), (("TRUE", "FALSE"), ("FALSE", "TRUE"))])
def test_truth_values_that_are_named_as_labels_are_found_in_the_spelling_of_the_data(
    cells: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    found = Task.from_frame(rows(60, cells), input="the text", output="out", labels=[True, False])
    assert found.labels == labels and found.output.label_type == "text"
    with pytest.raises(InputError, match="'TRUE'"):
        Task.from_frame(rows(60, ("true", "TRUE", "False")), input="the text", output="out", labels=[True, False])


SPELLED = [((False, True), "FALSE", "True"), ((0, 1), "0.0", "1.0"), ((0.0, 2.0), "0", "2"), ((-1, 1), "-1.0", "1.0")]


@pytest.mark.parametrize(("labels", "first", "second"), SPELLED)
def test_labels_of_equal_value_are_the_label_of_train(labels: tuple[Any, Any], first: str, second: str, tmp_path: Path) -> None:
    file = tmp_path / "dev.csv"
    file.write_text("the text,out\n" + "".join(f"other {i},{(first, second)[i % 2]}\n" for i in range(30)))
    found = Task.from_frame(rows(60, labels), input="the text", output="out", dev=file)
    assert [row.output for row in found.dev[:2]] == [str(label).lower() for label in labels]
    assert len(found.labels) == 2 and found.output.label_type == type(labels[0]).__name__
    named = Task.from_frame(file, input="the text", output="out", labels=labels, test=rows(30, labels, start=60))
    assert len({row.output for row in (*named.train, *named.dev)}) == 2
    manifest = SimpleNamespace(
        input_fields=("the_text",), output_field="out", output=found.output, named_metric="accuracy", metric="accuracy"
    )
    scored = LabelledRows.of(read_table(file), cast("Manifest", manifest))
    assert {row.output for row in scored.rows} == set(found.labels)


def test_texts_of_equal_value_are_different_labels() -> None:
    with pytest.raises(InputError, match=r"the dev label '0\.0' has no train row"):
        Task.from_frame(rows(60, ("0", "1")), input="the text", output="out", dev=rows(30, (0.0, 1.0), start=60))


@pytest.mark.parametrize(("key", "value"), [("type", "classification"), ("on_blank", "drop")])
def test_a_word_that_says_nothing_here_is_refused(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{key} must be one of .*, not '{value}'"):
        Task.from_frame(rows(60, "ab"), input="the text", output="out", **{key: value})


def test_whole_numbers_may_stand_beside_decimals(tmp_path: Path) -> None:
    found = Task.from_frame(rows(60, (1, 1.5, 2, 2.5)), input="the text", output="out")
    assert set(found.labels) <= {"1", "1.0", "1.5", "2", "2.0", "2.5"} and found.output.label_type == "float"
    assert {found.output.own(label) for label in found.labels} == {1.0, 1.5, 2.0, 2.5}
    file = tmp_path / "two exports.csv"
    file.write_text("the text,out\n" + "".join(f"row {i},{('1', '1.0', '2', '2.0', '3')[i % 5]}\n" for i in range(60)))
    found = Task.from_frame(file, input="the text", output="out")
    assert found.labels == ("1", "2", "3") and found.output.label_type == "int"


def test_a_column_of_prices_is_of_numbers(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_text("text,item,price\n" + "".join(f"row {i},{'ab'[i % 2]},{('10', '12.5')[i % 2]}\n" for i in range(60)))
    found = Task.from_frame(file, input="text", output=["item", "price"])
    assert {json.loads(row.output)["price"] for row in found.train} == {10, 12.5}
