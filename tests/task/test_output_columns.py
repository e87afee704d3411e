"""Several output columns: they are read as one column of JSON objects."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cotune.config import config_from_data, load_config
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.output_columns import types_of

_CITIES = ("Rome", "Oslo", "Lima", "Bonn", "Cork", "Kiel", "Bern", "Graz")


def table(rows: int = 60, **more: Any) -> list[dict[str, str]]:
    found = []
    for i in range(rows):
        city, guests = _CITIES[i % 8], str(2 + i % 9)
        row = {"text": f"Visitor{i} wants a table for {guests} in {city}", "Full name": f"Visitor{i}", "city": city}
        found.append({**row, "guests": guests if i % 3 else "", **more})
    return found


def csv_of(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def outputs(task: Task) -> dict[str, Any]:
    return {row.text: json.loads(row.output) for row in (*task.train, *task.dev)}


def test_columns_become_properties_and_blank_cells_none(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "rows.csv", table())
    config = config_from_data(path, input="text", output="Full name, city, guests")
    task = Task.from_config(config)
    assert task.output.type == "json" and task.output_field == "Full name, city, guests"
    found = outputs(task)
    for row in table():
        if row["text"] in found:
            filled = {"Full name": row["Full name"], "city": row["city"]}
            assert found[row["text"]] == (filled | {"guests": int(row["guests"])} if row["guests"] else filled)
    assert [one.path for one in task.output.copied] == ["Full name", "city", "guests"]
    assert not [finding for finding in task.checks.findings if finding.kind in ("output_type", "empty_outputs")]


def test_a_list_in_a_task_file_and_in_python_means_the_same(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "rows.csv", table())
    (tmp_path / "task.yaml").write_text("data: {train: rows.csv, input: text, output: [Full name, city]}\n")
    by_file = Task.from_config(load_config(tmp_path / "task.yaml"))
    by_python = Task.from_frame(path, input="text", output=["Full name", "city"])
    tuples = Task.from_rows([tuple(row.values())[:3] for row in table()], input="text", output=("Full name", "city"))
    assert outputs(by_file) == outputs(by_python) == outputs(tuples)
    assert by_file.output_field == by_python.output_field == tuples.output_field == "Full name, city"


def test_types_come_from_train_and_other_tables_follow(tmp_path: Path) -> None:
    rows = [{**row, "code": f"{i:03}", "vip": ("true", "false")[i % 2], "tags": '["a"]'} for i, row in enumerate(table(90))]
    odd = {**rows[0], "text": "another one", "guests": "two", "vip": "perhaps"}
    train, dev = csv_of(tmp_path / "train.csv", rows[:60]), csv_of(tmp_path / "dev.csv", [*rows[60:], odd])
    task = Task.from_frame(train, input="text", output=["guests", "code", "vip", "tags"], dev=dev)
    found = outputs(task)
    assert found[rows[61]["text"]] == {"guests": int(rows[61]["guests"]), "code": "061", "vip": False, "tags": ["a"]}
    assert found["another one"] == {"guests": "two", "code": "000", "vip": "perhaps", "tags": ["a"]}


def test_numbers_too_long_for_a_number_and_texts_of_typed_sources_stay_texts() -> None:
    rows = [{**row, "parcel": f"{1234567890123456 + i}"} for i, row in enumerate(table())]
    found = outputs(Task.from_rows(rows, input="text", output=["parcel", "guests"]))
    # In rows of Python a text is a text, whatever it looks like.
    assert all(isinstance(value, str) for one in found.values() for value in one.values())
    typed = [{**row, "guests": int(row["guests"] or 1), "extra": ["a", "b"]} for row in rows]
    found = outputs(Task.from_rows(typed, input="text", output=["guests", "extra"]))
    assert all(isinstance(one["guests"], int) and one["extra"] == ["a", "b"] for one in found.values())


def test_long_whole_numbers_of_a_spreadsheet_stay_texts(tmp_path: Path) -> None:
    rows = [{**row, "parcel": f"{1234567890123456 + i}"} for i, row in enumerate(table())]
    config = config_from_data(csv_of(tmp_path / "rows.csv", rows), input="text", output="parcel,guests")
    assert all(isinstance(one["parcel"], str) for one in outputs(Task.from_config(config)).values())


def test_rows_with_nothing_but_blanks_have_an_empty_answer_or_are_left_out() -> None:
    rows = [*table(), *({"text": f"nothing here {i}", "Full name": "", "city": " ", "guests": ""} for i in range(6))]
    task = Task.from_rows(rows, input="text", output=["Full name", "city"])
    found = outputs(task)
    empty = [text for text, value in found.items() if value == {}]
    assert empty and all(text.startswith("nothing") for text in empty)
    (finding,) = (finding for finding in task.checks.findings if finding.kind == "empty_outputs")
    assert "6 rows" in finding.message and finding.severity == "warning"
    task = Task.from_rows(rows, input="text", output=["Full name", "city"], on_blank="skip")
    assert not any(text.startswith("nothing") for text in outputs(task))
    assert task.checks.counts["blank_rows_skipped"] == 6


def test_a_value_that_json_cannot_express_is_refused() -> None:
    rows: list[dict[str, Any]] = [*table()]
    rows[7] = {**rows[7], "city": b"Oslo"}
    with pytest.raises(InputError, match=r"row 8, column 'city': the cell holds a value that JSON cannot express"):
        Task.from_rows(rows, input="text", output=["city", "guests"])


def test_an_output_column_may_group_the_rows() -> None:
    task = Task.from_rows(table(), input="text", output=["city", "guests"], group="city")
    assert {row.group for row in task.train} <= {*_CITIES} and not {r.group for r in task.train} & {r.group for r in task.dev}


def test_a_column_with_a_comma_in_its_name_stays_one_column() -> None:
    rows = [{**row, "name, city": row["city"]} for row in table()]
    task = Task.from_rows(rows, input="text", output="name, city")
    assert task.output.type == "label"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (["Full name", "ctiy"], "there is no column 'ctiy', did you mean 'city'"),
        (["city", "city"], "'city' is named twice"),
        (["city", "text"], "'text' is named twice"),
        (["city", "a, b"], "'a, b' cannot be one of several output columns"),
        ([], "no output column is named"),
    ],
)
def test_wrong_columns_are_refused(output: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Task.from_rows(table(), input="text", output=output)


def test_several_columns_are_no_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are not of type label"):
        Task.from_rows(table(), input="text", output=["city", "guests"], type="label")
    path = csv_of(tmp_path / "rows.csv", table())
    (tmp_path / "task.yaml").write_text(f"data: {{train: {path}, input: text, output: [city, city]}}\n")
    with pytest.raises(InputError, match=r"line 1, data\.output: the column 'city' is named twice"):
        load_config(tmp_path / "task.yaml")


COLUMNS: dict[str, Any] = {"input": "text", "output": ["Full name", "guests"]}


def test_whole_numbers_with_a_decimal_point_are_whole_in_other_tables(tmp_path: Path) -> None:
    """A spreadsheet writes ``3.0`` in a column of whole numbers that has a blank cell."""
    rows = table(80)
    for row in rows[60:]:
        row["guests"] = f"{row['guests']}.0" if row["guests"] else ""
    train, dev = csv_of(tmp_path / "rows.csv", rows[:60]), csv_of(tmp_path / "dev.csv", rows[60:])
    found = outputs(Task.from_frame(train, **COLUMNS, dev=dev))
    for row in rows[60:]:
        # Not 3.0, which is another JSON text.
        assert repr(found[row["text"]].get("guests")) == (row["guests"].removesuffix(".0") or "None")


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "integer"}, "int"),
        ({"enum": [1, 2, 3]}, "int"),
        ({"enum": [1, 2.5, None]}, "float"),
        ({"const": True}, "bool"),
        ({"type": ["integer", "null"]}, "int"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "int"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"enum": ["a", "b"]}, "text"),
        ({"type": "array"}, "nested"),
        ({"$ref": "#/$defs/x"}, None),
        ({"type": ["boolean", "integer"]}, None),
        ({}, None),
    ],
)
def test_the_type_of_a_column_by_its_part_of_the_schema(part: dict[str, Any], found: str | None) -> None:
    assert types_of({"properties": {"a": part}}) == ({} if found is None else {"a": found})


def test_a_schema_with_listed_numbers_fits_the_cells_of_a_table(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "rows.csv", [row | {"guests": str(1 + i % 3)} for i, row in enumerate(table())])
    schema = {
        "type": "object",
        "properties": {"Full name": {"type": "string"}, "guests": {"enum": [1, 2, 3]}},
        "required": ["guests"],
        "additionalProperties": False,
    }
    found = outputs(Task.from_frame(path, **COLUMNS, schema=schema))
    assert {answer["guests"] for answer in found.values()} == {1, 2, 3}


def test_a_list_of_one_output_is_that_output() -> None:
    rows = [(f"row {place}", "ab"[place % 2]) for place in range(40)]
    assert Task.from_rows(rows, input="text", output=["label"]).labels == ("a", "b")
