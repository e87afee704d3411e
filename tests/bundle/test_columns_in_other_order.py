"""A bundle finds its columns by what their headers say, wherever they stand in another file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import LABELS, PROMPT, Bench, loaded

from command_line import call
from cotune.bundle.manifest import read_manifest
from cotune.bundle.rows import checked_row
from cotune.bundle.scored import LabelledRows
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.labelling.session import Earlier
from cotune.task.reading.field_names import field_names
from cotune.task.reading.table import table_from_rows

HEADERS = [("Номер", "Текст"), ("标题", "文本"), ("!", "?"), ("a-b", "a b"), ("पाठ", "पीठ")]
"""Headers of another column and of the input."""


def saved(bench: Bench, folder: Path, headers: tuple[str, str]) -> tuple[Path, str]:
    """A bundle that has learnt from a file with these headers, and the name of its field."""
    field = field_names([headers[1], "Метка", headers[0]])[headers[1]]
    prompt = PROMPT.edit(input_template=f"Question: {{{field}}}", demonstrations=())
    return bench.save(folder, input_fields=(field,), output_field="Метка", prompt=prompt), field


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: headers[1])
def test_every_command_reads_the_column_that_was_learnt_from(bench: Bench, tmp_path: Path, headers: tuple[str, str]) -> None:
    bundle, field = saved(bench, tmp_path / "bundle", headers)
    other, text = headers
    row = {other: "17", text: "Who built it?", "Метка": LABELS[0]}
    # predict and the rows of serve
    assert checked_row(row, (field,), "row 1") == {field: "Who built it?"}
    assert loaded(bundle).predict([row])[0] == loaded(bundle).predict([{field: "Who built it?"}])[0]
    # evaluate
    table = table_from_rows([row] * 3, "rows.csv")
    found = LabelledRows.of(table, read_manifest(bundle))
    assert [one.fields for one in found.rows] == [{field: "Who built it?"}] * 3
    by_group = LabelledRows.of(table, read_manifest(bundle), group=text)
    assert [one.group for one in by_group.rows] == ["Who built it?"] * 3
    # label
    out = tmp_path / "labelled.jsonl"
    out.write_text(json.dumps(row), encoding="utf-8")
    assert Earlier.read(out, (field,), "Метка").known == {"who built it?"}
    # a warm start
    rows = [{other: i, text: f"row {i}", "Метка": "ab"[i % 2]} for i in range(60)]
    task = Task.from_frame(rows, input=field, output="Метка")
    assert task.input_fields == (field,) and all(one.fields[field].startswith("row") for one in task.train)
    alone = Task.from_frame([{text: row[text], "Метка": row["Метка"]} for row in rows], input=field, output="Метка")
    assert all(next(iter(one.fields.values())).startswith("row") for one in alone.train)


def test_headers_that_differ_in_encoding_alone_can_be_read() -> None:
    rows = [{"my text": f"row {i}", "my\u00a0text": "17", "kind": "ab"[i % 2]} for i in range(60)]
    task = Task.from_frame(rows, input="my text", output="kind")
    assert all(next(iter(one.fields.values())).startswith("row") for one in task.train)


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: headers[1])
def test_the_column_may_stand_alone_and_another_alone_is_refused(headers: tuple[str, str]) -> None:
    field = field_names(headers)[headers[1]]
    assert checked_row({headers[1]: "x"}, (field,), "row 1") == {field: "x"}
    with pytest.raises(InputError, match="there is no field"):
        checked_row({headers[0]: "x"}, (field,), "row 1")


def test_a_header_that_two_columns_might_mean_is_refused() -> None:
    with pytest.raises(InputError, match="there is no field 'a_b'"):
        checked_row({"a-b": "x", "a b": "y"}, ("a_b",), "row 1")


def test_a_file_with_other_columns_first_is_predicted_by_its_text(bench: Bench, tmp_path: Path) -> None:
    bundle, _ = saved(bench, tmp_path / "bundle", ("!", "?"))
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("?,!\nWho built it?,7\nWhere is K2?,8\n", encoding="utf-8")
    two.write_text("!,?\n7,Who built it?\n8,Where is K2?\n", encoding="utf-8")
    told = [call("predict", bundle, path, "--probabilities") for path in (one, two)]
    # All but the columns of the file itself.
    answers = [[line.split(",")[2:] for line in ended.stdout.splitlines()] for ended in told]
    assert len(answers[0]) == 3 and answers[0] == answers[1], told
