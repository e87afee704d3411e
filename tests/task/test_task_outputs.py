"""Outputs of every type: guessed, read, checked, split; bad cells named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.assemble import Source, assemble
from cotune.task.checks import DataChecks
from cotune.task.known import Known
from cotune.task.reading.table import table_from_rows
from cotune.task.values.closed import ClosedFields
from cotune.task.values.kinds.registry import guess_type
from cotune.task.values.output import Output
from cotune.task.values.schema import Validator

WORDS = ("red", "blue", "green", "grey")


def texts(count: int = 60) -> list[dict[str, Any]]:
    return [{"q": f"question {i}", "a": f"  Answer {i} in words "} for i in range(count)]


def numbers(count: int = 60) -> list[dict[str, Any]]:
    return [{"q": f"what is {i} and {i}", "a": f"{2 * i * i}.0"} for i in range(count)]


def objects(count: int = 60) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        value: dict[str, Any] = {"count": i, "colour": WORDS[i % 4], "tags": [f"t{i}"]}
        if i % 3:
            value = {"note": f"note {i}", **value}
        rows.append({"q": f"row {i}", "a": value})
    return rows


def task_of(rows: list[dict[str, Any]], **settings: Any) -> Task:
    return Task.from_rows(rows, input="q", output="a", **settings)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([f"{i * 7 % 101}.5" for i in range(60)], "number"),
        ([str(i % 30) for i in range(60)], "label"),
        ([str(1 + i % 77) for i in range(800)], "label"),
        ([str(i % 5) for i in range(60)], "label"),
        ([f"word {i}" for i in range(60)], "text"),
        (["yes", "no"] * 30, "label"),
        (['{"a": 1}', "{}"] * 30, "json"),
        (['{"a": 1}', "{not json}"] * 30, "label"),
    ],
)
def test_the_type_is_guessed(cells: list[str], kind: str) -> None:
    assert guess_type(cells)[0] == kind


@pytest.mark.parametrize(("rows", "kind", "metric"), [(texts(), "text", "token_f1"), (numbers(), "number", "accuracy"),
                                                      (objects(), "json", "json_f1")])  # fmt: skip
def test_a_task_of_each_type(rows: list[dict[str, Any]], kind: str, metric: str) -> None:
    task = task_of(rows)
    assert (task.output.type, task.metric, task.labels) == (kind, metric, ())
    assert kind in task.checks["output_type"].message and "output.type" in task.checks["output_type"].message
    assert (len(task.train), len(task.dev), task.test.n) == (28, 12, 20)
    assert task_of(rows, type=kind).fingerprint == task.fingerprint
    assert "output_type" not in task_of(rows, type=kind).checks


def test_a_column_in_which_every_value_differs_is_warned_of() -> None:
    found = task_of(texts()).checks["output_type"]
    assert found.severity == "warning" and "every value differs" in found.message and "--output" in found.message
    recurring = [{**row, "a": f"Answer {i // 1.5:.0f}"} for i, row in enumerate(texts())]
    assert task_of(recurring).checks["output_type"].severity == "info"


def prices(count: int, among: int = 60) -> list[dict[str, Any]]:
    """Rows of which so many are answered by one of nine prices with a decimal comma, the others by a word."""
    return [{"q": f"row {i}", "a": f"12{i % 9},79" if i < count else WORDS[i % 3]} for i in range(among)]


def test_numbers_that_are_taken_for_labels_are_told() -> None:
    rows = [{"text": f"review {i}", "stars": str(1 + i % 5)} for i in range(60)]
    task = Task.from_frame(rows, input="text", output="stars")
    found = task.checks["number_labels"]
    assert found.severity == "info" and "5 different numbers" in found.message and "output.type=number" in found.message
    assert "number_labels" not in Task.from_frame(rows, input="text", output="stars", type="label").checks
    halves = [{**row, "stars": str(i % 2)} for i, row in enumerate(rows)]
    assert "number_labels" not in Task.from_frame(halves, input="text", output="stars").checks, "0 and 1 are yes and no"
    words = [{**row, "stars": f"{row['stars']} stars"} for row in rows]
    assert "number_labels" not in Task.from_frame(words, input="text", output="stars").checks


def test_decimal_commas_among_labels_are_warned_of() -> None:
    for count in (9, 60):
        task = task_of(prices(count))
        found = task.checks["decimal_commas"]
        assert task.output.type == "label" and found.severity == "warning"
        assert f"{count} of 60" in found.message and "'120,79'" in found.message and "output.type=number" in found.message
    for quiet in (task_of(prices(3)), task_of(prices(60), type="label"), task_of(prices(60), type="number")):
        assert "decimal_commas" not in quiet.checks


@pytest.mark.parametrize(("odd", "kind"), [("n/a", "number"), ("n/a", "json")])
def test_the_few_outputs_that_are_not_of_the_others_kind_are_named(tmp_path: Path, odd: str, kind: str) -> None:
    usual = [str(1.5 * i) if kind == "number" else json.dumps({"a": i % 30}) for i in range(100)]

    def found(outputs: list[str], **more: Any) -> DataChecks:
        rows = [{"text": f"message number {i}", "price": output} for i, output in enumerate(outputs)]
        pandas.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
        return Task.from_frame(tmp_path / "rows.csv", input="text", output="price", **more).checks

    finding = found([*usual[:50], odd, *usual[50:]])["output_exceptions"]
    assert finding.count == 1 and finding.severity == "warning"
    assert "100 of 101 values" in finding.message and f"line 52, is {odd!r}" in finding.message
    for quiet in (found(usual), found([*usual, odd], type="text"), found([*usual, *(f"{odd} {i}" for i in range(20))])):
        assert "output_exceptions" not in quiet


def broken_json(tmp_path: Path, outputs: list[str], **more: Any) -> Task:
    rows = [{"text": f"message number {i}", "price": output} for i, output in enumerate(outputs)]
    pandas.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    return Task.from_frame(tmp_path / "rows.csv", input="text", output="price", **more)


@pytest.mark.parametrize(
    ("odd", "others"),
    [
        (['{"a": 1'], []),
        (["{'a': 1}", '["b", ]'], []),
        (['{"a": 1'] * 30, ["none"] * 10),
    ],
)
def test_broken_json_among_json_is_an_error_that_names_the_cell(tmp_path: Path, odd: list[str], others: list[str]) -> None:
    usual = [json.dumps({"a": i}) for i in range(198)]
    outputs = [*usual[:50], *odd, *usual[50:], *others]
    with pytest.raises(InputError, match="the output is not valid JSON") as error:
        broken_json(tmp_path, outputs)
    assert error.value.where == f"{tmp_path / 'rows.csv'}, line 52, column 'price'"
    assert repr(odd[0]) in error.value.what and f"; 198 of {len(outputs)} outputs are JSON" in error.value.what
    assert "output.type=text" in error.value.hint and ("more cell" in error.value.hint) == (len(odd) > 1)
    assert broken_json(tmp_path, outputs, type="text").output.type == "text"
    with pytest.raises(InputError, match="the output is not valid JSON"):
        broken_json(tmp_path, outputs, type="json")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        # Something else than JSON in brackets, as in comments and labels.
        (["[removed]" if i % 9 == 0 else f"a comment {i}" for i in range(90)], "text"),
        (["[A]", "[1]"] * 30, "label"),
        (["{not json}", "yes", "no"] * 30, "label"),
        ([f'{{"a": {i}}}' if i % 5 else ("[none]" if i % 10 else "none") for i in range(100)], "text"),
    ],
)
def test_other_texts_in_brackets_are_no_error(tmp_path: Path, cells: list[str], kind: str) -> None:
    assert broken_json(tmp_path, cells).output.type == kind


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_labels_that_look_like_missing_values_are_warned_of(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"message number {i}", "label": ("a", "b", "NaN", "N/A", "NaN")[i % 5]} for i in range(100)]
    if name == "rows.csv":
        (tmp_path / name).write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    elif name == "rows.jsonl":
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pandas.DataFrame(rows).to_parquet(tmp_path / name)
    columns: dict[str, Any] = {"input": "text", "output": "label"}
    task = Task.from_frame(tmp_path / name, **columns)
    found = task.checks["labels_like_missing"]
    assert task.labels == ("N/A", "NaN", "a", "b") and found.severity == "warning"
    assert found.count == 60 and "'NaN' in 40 rows, 'N/A' in 20 rows" in found.message
    assert "data.on_blank=skip" in found.message and "output.labels" in found.message
    listed = Task.from_frame(tmp_path / name, labels=["a", "b", "NaN", "N/A"], **columns)
    assert "labels_like_missing" not in listed.checks


def test_outputs_are_written_in_one_form() -> None:
    assert {row.output for row in task_of(texts()).train} <= {f"Answer {i} in words" for i in range(60)}
    assert {row.output for row in task_of(numbers()).train} <= {str(2 * i * i) for i in range(60)}
    for row in task_of(objects()).train:
        assert list(json.loads(row.output)) in (["note", "count", "colour", "tags"], ["count", "colour", "tags"])


def test_a_schema_is_inferred_from_train_and_dev_alone() -> None:
    task = task_of(objects(400))
    schema = task.output.schema
    assert schema is not None
    assert schema["required"] == ["count", "colour", "tags"] and not schema["additionalProperties"]
    assert schema["properties"]["colour"] == {"type": "string", "enum": sorted(WORDS)}
    assert schema["properties"]["tags"] == {
        "type": "array",
        "items": {"type": "string", "maxLength": 32},
        "maxItems": 4,
    }
    assert Output.from_json(task.output.to_json()) == task.output


def test_outputs_as_json_text_and_nested_are_the_same(tmp_path: Path) -> None:
    nested, flat = tmp_path / "nested.jsonl", tmp_path / "flat.jsonl"
    nested.write_text("".join(json.dumps(row) + "\n" for row in objects()))
    flat.write_text("".join(json.dumps({**row, "a": json.dumps(row["a"])}) + "\n" for row in objects()))
    parquet = tmp_path / "rows.parquet"
    pandas.DataFrame([{**row, "a": {**row["a"], "note": row["a"].get("note", "")}} for row in objects()]).to_parquet(parquet)
    found = [Task.from_config(config_from_data(path, input="q", output="a")) for path in (nested, flat, parquet)]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[2].output.type == "json" and len(found[2].train) == len(found[0].train)


@pytest.mark.parametrize(
    ("rows", "settings", "parts"),
    [
        (numbers(), {"type": "number", "bad": "12 km"}, ("row 8, column 'a'", "'12 km' is not a number", "unit")),
        (numbers(), {"type": "number", "bad": "3,5"}, ("row 8", "'3,5' is not a number", "decimal comma")),
        (objects(), {"type": "json", "bad": "{'a': 1}"}, ("row 8, column 'a'", "not valid JSON")),
        (objects(), {"type": "json", "bad": '{"a": 1, "a": 2}'}, ("row 8", "'a' is given twice")),
        (objects(), {"schema": {"type": "object", "properties": {"count": {"type": "integer"}}}, "bad": '{"count": "x"}'},
         ("row 8, column 'a'", "does not fit output.schema", "count: ")),
        (objects(), {"schema": {"type": "objekt"}}, ("schema", "not a valid JSON Schema")),
        (objects(), {"schema": {"$ref": "http://example.org/x"}}, ("schema", "stay within the schema")),
        (texts(), {"type": "text", "bad": "  "}, ("row 8, column 'a'", "output is empty")),
        (texts(), {"type": "text", "metric": "json_f1"}, ("metric", "does not fit answers of the type text", "token_f1")),
        (texts(), {"type": "text", "metric": "r2"}, ("metric", "token_f1", "r2 is for the type number, see output.type")),
        ([{**row, "a": "same"} for row in texts()], {"type": "text"}, ("column 'a'", "same output, 'same'")),
    ],
)  # fmt: skip
def test_bad_outputs_are_named(rows: list[dict[str, Any]], settings: dict[str, Any], parts: tuple[str, ...]) -> None:
    bad = settings.pop("bad", None)
    if bad is not None:
        rows = [*rows[:7], {**rows[7], "a": bad}, *rows[8:]]
    with pytest.raises(InputError) as caught:
        task_of(rows, **settings)
    message = str(caught.value)
    assert not [part for part in parts if part not in message], message
    assert caught.value.hint


def test_a_schema_file_is_read_and_named_where_it_is_broken(tmp_path: Path) -> None:
    data, schema = tmp_path / "rows.jsonl", tmp_path / "schema.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in objects()))
    schema.write_text('{"type": "object", "required": ["count"]}')
    config = config_from_data(data, input="q", output="a", overrides=[f"output.schema={schema}"])
    assert Task.from_config(config).output.schema == {"type": "object", "required": ["count"]}
    assert config.fingerprint_view()["output"]["schema"] == "schema.json"
    schema.write_text("{nope")
    with pytest.raises(InputError, match=r"schema\.json: the schema file is not valid JSON"):
        Task.from_config(config)


def test_a_bundles_schema_stays_as_long_as_all_rows_fit_it() -> None:
    rows = [{"q": f"q {i}", "a": {"kind": f"sort {i}", "size": i}} for i in range(40)]
    loose = {
        "type": "object",
        "properties": {"size": {"type": "integer"}, "kind": {"type": "string"}, "more": {"type": "string"}},
    }
    known = Output("json", schema_text=json.dumps(loose))

    def output_of(rows: list[dict[str, Any]], **settings: Any) -> Output:
        source = Source(table_from_rows(rows, "rows"), None, None, ("q",), "a", known=Known(known), **settings)
        return assemble(source, None).output

    kept = output_of(rows)
    assert kept.schema == loose
    assert output_of([{**row, "a": {**row["a"], "size": "big"}} for row in rows]).schema != loose
    other = {**rows[0], "a": {"kind": "x", "size": "big"}}
    replayed = output_of(rows, replay=table_from_rows([other, *rows[1:5]], "old rows"))
    assert replayed.schema is not None and replayed.schema != loose
    assert Validator(replayed.schema)(other["a"])


def test_old_rows_that_are_no_labels_are_replayed_as_many_as_there_are_new_ones() -> None:
    rows = [{"q": f"q {i}", "a": f"some words {i}"} for i in range(40)]
    old = [{"q": f"old {i}", "a": f"other words {i}"} for i in range(100)]
    source = Source(
        table_from_rows(rows, "rows"),
        None,
        None,
        ("q",),
        "a",
        type="text",
        replay=table_from_rows(old, "old"),
        replay_ratio=0.5,
    )
    parts = assemble(source, None)
    replayed = [row for row in (*parts.train, *parts.dev) if row.id.startswith("replay:")]
    new = [row for row in (*parts.train, *parts.dev) if not row.id.startswith("replay:")]
    assert len(replayed) == -(-len(new) // 2) and any(row in parts.dev for row in replayed)


@pytest.mark.parametrize("seed", range(4))
def test_old_rows_stay_with_their_group(seed: int) -> None:
    rows = [{"q": f"q {i}", "a": "xy"[i % 2], "g": f"g{i % 20}"} for i in range(100)]
    old = [{"q": f"old {i}", "a": "xy"[i % 2], "g": f"g{i % 40}"} for i in range(120)]
    test = [{"q": f"test {i}", "a": "xy"[i % 2], "g": f"g{20 + i % 5}"} for i in range(20)]
    tables = [table_from_rows(part, "rows") for part in (rows, test, old)]
    parts = assemble(Source(tables[0], None, tables[1], ("q",), "a", group="g", seed=seed, replay=tables[2]), None)
    train, dev = ({row.group for row in part} for part in (parts.train, parts.dev))
    assert not train & dev and not parts.test.groups_shared_with((*parts.train, *parts.dev))
    assert all(any(row.id.startswith("replay:") for row in part) for part in (parts.train, parts.dev))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("on_blank", ["skip", "error"])
def test_an_output_with_a_number_that_is_none_in_json_is_not_taken_for_a_blank_one(number: float, on_blank: str) -> None:
    rows = objects()
    rows[7]["a"] = {"count": 1, "tags": [number]}
    with pytest.raises(InputError, match=r"row 8, column 'a': the cell holds a value that JSON cannot express"):
        task_of(rows, on_blank=on_blank)


def test_json_with_many_values_that_recur_is_read_off_hidden_states_and_may_still_be_written_freely() -> None:
    rows = [
        {"text": f"message number {i} about {i % 60}", "out": {"topic": f"topic {i % 60}", "score": 10 * (i % 11)}}
        for i in range(300)
    ]
    task = Task.from_rows(rows, input="text", output="out")
    assert task.output.schema is not None and "enum" not in json.dumps(task.output.schema)
    assert isinstance(task.output.fields, ClosedFields) and task.output.fields.sizes == (60, 11)
    assert not task.output.copied and task.output.fits('{"topic": "a new one", "score": 3}')
    again = Output.from_json(json.loads(json.dumps(task.output.to_json())))
    assert again == task.output and again.fields == task.output.fields
    # A schema of the user's says what is possible, also beyond the rows.
    given = Task.from_rows(rows, input="text", output="out", schema=task.output.schema)
    assert given.output.fields is None and not given.output.read_text


def test_a_free_part_keeps_json_from_being_read() -> None:
    rows = [
        {"text": f"message number {i}", "out": {"topic": f"topic {i % 60}", "why": f"because of {i * 7}"}} for i in range(300)
    ]
    output = Task.from_rows(rows, input="text", output="out").output
    assert output.fields is None and not output.read_text


def test_a_bundle_with_a_broken_schema_to_read_by_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    for read in (schema, {"type": "nothing"}, "text"):
        with pytest.raises(InputError):
            Output.from_json({"type": "json", "schema": schema, "read_schema": read})
    with pytest.raises(InputError, match="read_schema"):
        Output.from_json({"type": "number", "schema": {"type": "number"}, "read_schema": {"type": "number"}})
