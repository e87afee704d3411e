"""Every kind of broken data gets one message that names file, row and column and says how to fix it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.config.yaml_text import parse_yaml
from cotune.errors import InputError
from cotune.task.reading.read import read_table
from cotune.task.reading.table import nearest_name

GOOD = [{"text": f"message number {index}", "label": "ab"[index % 2]} for index in range(40)]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    return pandas.DataFrame(rows).to_csv(index=False).encode()


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def changed(position: int, **cells: Any) -> list[dict[str, Any]]:
    return [{**row, **cells} if index == position else row for index, row in enumerate(GOOD)]


def message_of(path: Path, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        Task.from_config(config_from_data(path, **{"input": "text", "output": "label", **settings}))
    assert caught.value.exit_code == 2
    assert caught.value.hint, "the message does not say how to fix it"
    assert "\n" not in str(caught.value)
    return str(caught.value)


BROKEN: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty file": ("d.csv", b"", ("d.csv", "empty")),
    "only a BOM": ("d.csv", b"\xef\xbb\xbf\n", ("d.csv", "empty")),
    "header only": ("d.csv", b"text,label\n", ("d.csv", "no rows")),
    "duplicate header": ("d.csv", b"text,label,text\na,b,c\n", ("d.csv, line 1, column 3", "'text' twice")),
    "short row": ("d.csv", b"text,label\na,b\nc\n", ("d.csv, line 3, column 'label'", "1 cells", "header has 2")),
    "long row": ("d.csv", b"text,label\nI see, a cat,b\n", ("d.csv, line 2, column 3", "3 cells", "quotes")),
    "unclosed quote": ("d.csv", b'text,label\na,b\n"never,closed\nc,d\n', ("d.csv, line 3", "never closed")),
    "text after quote": ("d.tsv", b'text\tlabel\n"a" b\tx\n', ("d.tsv, line 2", "closing quote", "twice")),
    "Windows-1252": ("d.csv", b"text,label\na,b\ncaf\xe9,b\n", ("d.csv, line 3", "not UTF-8 (byte 0xe9)", "Windows-1252")),
    "Windows-1252 after a BOM": ("d.csv", b"\xef\xbb\xbftext,label\n\xe9,b\n", ("d.csv, line 2", "0xe9")),
    "UTF-16": ("d.csv", "text,label\na,b\n".encode("utf-16"), ("d.csv, line 1", "UTF-16", "UTF-8")),
    "NUL byte": ("d.csv", b"text,label\na,b\nc\0d,b\n", ("d.csv, line 3", "NUL")),
    "unknown suffix": ("d.docx", b"PK", ("d.docx", "'.docx'", ".csv", ".parquet")),
    "no suffix": ("data", b"text,label\n", ("data", "no ending", ".csv")),
    "broken JSON": ("d.jsonl", as_lines(GOOD[:2]) + b'{"text": "a", \n', ("d.jsonl, line 3", "not valid JSON", "one JSON")),
    "JSON list": ("d.jsonl", as_lines(GOOD[:1]) + b'["a", "b"]\n', ("d.jsonl, line 2", "a list", "named fields")),
    "JSON text": ("d.jsonl", b'"a"\n', ("d.jsonl, line 1", "a text")),
    "JSON null": ("d.jsonl", b"null\n", ("d.jsonl, line 1", "a null")),
    "JSON key twice": ("d.jsonl", b'{"text": "a", "text": "b"}\n', ("d.jsonl, line 1", "'text' is given twice")),
    "JSON too deep": ("d.jsonl", b'{"text": ' + b"[" * 200_000 + b"}\n", ("d.jsonl, line 1", "JSON")),
    "JSON number too long": ("d.jsonl", b'{"text": ' + b"1" * 6000 + b"}\n", ("d.jsonl, line 1", "JSON cannot be read")),
    "JSON file of one object": ("d.json", b'{"text": "a"}', ("d.json", "single object", "list of rows")),
    "corrupt parquet": ("d.parquet", b"PAR1 this is no parquet PAR1", ("d.parquet", "not readable Parquet")),
    "empty parquet": ("d.parquet", b"", ("d.parquet", "empty")),
    "missing column": ("d.csv", as_csv([{"txt": "a", "label": "b"}]), ("d.csv", "no column 'text'", "'txt'", "columns:")),
    "endless number": ("d.jsonl", as_lines(changed(4, text={"a": float("inf")})), ("line 5, column 'text'", "as text")),
    "NUL in a list": ("d.jsonl", as_lines(changed(1, text=["a\0b"])), ("d.jsonl, line 2, column 'text'", "NUL")),
    "half an emoji in a list": ("d.jsonl", as_lines(changed(4, text=["\ud83d"])), ("line 5, column 'text'", "surrogate")),
    "nested label": ("d.jsonl", as_lines(changed(6, label={"a": 1})), ("d.jsonl, line 7, column 'label'", "object")),
    "empty input": ("d.csv", as_csv(changed(2, text="  ")), ("d.csv, line 4, column 'text'", "input is empty")),
    "null input": ("d.jsonl", as_lines(changed(2, text=None)), ("d.jsonl, line 3, column 'text'", "input is empty")),
    "missing key": ("d.jsonl", as_lines([*GOOD, {"text": "a"}]), ("d.jsonl, line 41, column 'label'", "label is empty")),
    "empty label": ("d.csv", as_csv(changed(3, label="")), ("d.csv, line 5, column 'label'", "label is empty")),
    "escaped NUL": ("d.jsonl", as_lines(changed(1, text="a\0b")), ("d.jsonl, line 2, column 'text'", "NUL")),
    "half an emoji": ("d.jsonl", as_lines(changed(1, text="a\ud83d")), ("d.jsonl, line 2, column 'text'", "surrogate")),
    "one label": ("d.csv", as_csv([{**row, "label": "a"} for row in GOOD]), ("d.csv, column 'label'", "same label, 'a'")),
    "few rows": ("d.csv", as_csv(GOOD[:12]), ("d.csv", "only 12 labelled rows", "at least 20")),
    "labels all single but one": (
        "d.csv",
        as_csv([{**row, "label": "a" if index else "b"} for index, row in enumerate(GOOD)]),
        ("d.csv, column 'label'", "1 of 2 labels", "add rows"),
    ),
}  # fmt: skip


def test_ten_labelled_rows_are_enough_beside_a_test(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    test.write_bytes(as_csv(GOOD[20:]))
    train.write_bytes(as_csv(GOOD[:10]))
    task = Task.from_frame(train, input="text", output="label", test=test)
    assert len(task.train) + len(task.dev) == 10 and task.test.n == 20
    train.write_bytes(as_csv(GOOD[:9]))
    with pytest.raises(InputError, match=r"only 9 labelled rows.*at least 10"):
        Task.from_frame(train, input="text", output="label", test=test)


@pytest.mark.parametrize(("file", "content", "parts"), BROKEN.values(), ids=list(BROKEN))
def test_broken_files(tmp_path: Path, file: str, content: bytes, parts: tuple[str, ...]) -> None:
    (tmp_path / file).write_bytes(content)
    message = message_of(tmp_path / file)
    assert not [part for part in parts if part not in message], message


def test_labels_that_look_like_free_text(tmp_path: Path) -> None:
    rows = [{**row, "label": f"answer {index % 30}"} for index, row in enumerate(GOOD)]
    message = message_of(good_file(tmp_path, rows=rows), overrides=["output.type=label"])
    assert "d.csv, column 'label'" in message and "30 different labels in 40 rows" in message and "free text" in message


def good_file(folder: Path, name: str = "d.csv", rows: list[dict[str, Any]] | None = None) -> Path:
    path = folder / name
    path.write_bytes(as_csv(rows or GOOD))
    return path


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    good_file(tmp_path, "train.csv")
    message = message_of(tmp_path / "trian.csv")
    assert "trian.csv: there is no such file, did you mean 'train.csv'?" in message


@pytest.mark.parametrize(("asked", "known"), [("Ticket category", "Ticket No."), ("tickets.csv", "skew.csv"), ("a", "b")])
def test_a_far_name_is_not_suggested(asked: str, known: str) -> None:
    assert nearest_name(asked, [known]) is None


def test_an_ending_does_not_make_names_alike(tmp_path: Path) -> None:
    good_file(tmp_path, "rows.csv")
    assert "did you mean" not in message_of(tmp_path / "odd.csv")


@pytest.mark.parametrize("name", ["nowhere/d.csv", "x" * 300 + ".csv", "nul\0.csv"])
def test_files_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no such file|cannot be reached"):
        read_table(tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    assert "d.csv: this is a folder" in message_of(tmp_path / "d.csv")


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        # root may read everything but a process's memory from its start
        path.unlink()
        path.symlink_to("/proc/self/mem")
    message = message_of(path)
    assert "d.csv: the file cannot be read" in message
    assert "permissions" in message


def test_the_label_not_among_the_labels(tmp_path: Path) -> None:
    path = good_file(tmp_path, rows=changed(7, label="bb"))
    message = message_of(path, overrides=["output.labels=[a, b, c]"])
    assert "d.csv, line 9, column 'label': the label 'bb' is not among output.labels, did you mean 'b'?" in message
    assert "add the label" in message


@pytest.mark.parametrize("role", ["test", "dev"])
def test_a_label_that_has_no_train_row(tmp_path: Path, role: str) -> None:
    other = good_file(tmp_path, "other.csv", [{"text": f"other {i}", "label": "a" if i < 5 else "bb"} for i in range(9)])
    path = good_file(tmp_path)
    message = message_of(path, data={role: str(other)})
    assert f"other.csv, line 7, column 'label': the {role} label 'bb' has no train row, did you mean 'b'?" in message
    settings = {"data": {role: str(other)}, "overrides": ["output.labels=[a, b, bb]"]}
    task = Task.from_config(config_from_data(path, input="text", output="label", **settings))
    assert task.labels == ("a", "b", "bb")


def test_broken_dev_and_test_files_are_named(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(as_csv([{"text": "a", "lable": "b"}]))
    for role in ("dev", "test"):
        message = message_of(path, data={role: str(bad)})
        assert "bad.csv: there is no column 'label', did you mean 'lable'?" in message


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        ({"train": 5}, ("limit.train", "5 labelled rows")),
        ({"dev": 39}, ("limit.dev", "leaves nothing")),
        ({"test": 500}, ("limit.test", "500 of the 40", "data.test")),
    ],
)
def test_limits_that_leave_nothing(tmp_path: Path, limit: dict[str, int], parts: tuple[str, ...]) -> None:
    message = message_of(good_file(tmp_path), limit=limit)
    assert not [part for part in parts if part not in message], message


def test_a_column_that_cannot_stand_in_a_prompt(tmp_path: Path) -> None:
    path = good_file(tmp_path, rows=[{"my text": row["text"], "labels": "x", "label": row["label"]} for row in GOOD])
    assert "Rename the column" in message_of(path, input="labels")
    assert "no column 'my txt', did you mean 'my text'?" in message_of(path, input="my txt")


ODD = (
    "yes",
    "on",
    "1",
    "1e3",
    "true",
    "null",
    "~",
    "2024-01-01",
    "2024-13-01",
    "12:30",
    "a: b",
    "x #1",
    "# x",
    "- dash",
    "-1",
    "[x]",
    "{x}",
)
ODD += ("*x", "&x", "!x", "%x", "@x", "x:", "it's", 'say "x"', "back\\slash", "größe", "tab\tx", "line\u2028x", "\x7f")


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_quoted_in_what_a_task_file_should_say(tmp_path: Path, name: str) -> None:
    rows = [{name: row["text"], "title": "x", "label": row["label"]} for row in GOOD]
    with pytest.raises(InputError) as caught:
        read_table(good_file(tmp_path, rows=rows)).need_input(f"title,{name}")
    text = caught.value.hint.partition("in a task file ")[2].removesuffix(".")
    # By YAML 1.1, and by YAML 1.2 as task files are read.
    assert yaml.safe_load(text) == parse_yaml(text, "hint").value == {"input": ["title", name]}


def test_columns_joined_by_commas_are_told_apart(tmp_path: Path) -> None:
    rows = [{"my text": row["text"], "title": "x", "label": row["label"]} for row in GOOD]
    message = message_of(good_file(tmp_path, rows=rows), input="title, my text")
    assert "no column 'title, my text'. Its" in message, message
    assert "--input title --input 'my text'; in a task file input: [title, my text]" in message
    assert "by itself" not in message_of(good_file(tmp_path, rows=rows), input="title,texts")
    assert "by itself" not in message_of(good_file(tmp_path, rows=rows), output="title,label"), "there is one output"


def test_everything_in_one_group_cannot_be_cut(tmp_path: Path) -> None:
    path = good_file(tmp_path, rows=[{**row, "user": "u"} for row in GOOD])
    assert "no test split can be cut" in message_of(path, data={"group": "user"})


def test_a_limit_that_leaves_one_row_of_each_label_is_named(tmp_path: Path) -> None:
    many = [{"text": f"text {i}", "label": f"l{i % 12}"} for i in range(240)]
    path = good_file(tmp_path, rows=many)
    message = message_of(path, limit={"train": 12})
    assert "limit.train=12 leaves a single row of each label" in message and "equal inputs" not in message


def test_a_train_set_that_is_all_in_the_test(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    assert "0 labelled rows with 0 labels remain without those that also occur in the test" in message_of(
        path, data={"test": str(path)}
    )


def test_a_train_set_that_is_all_in_dev(tmp_path: Path) -> None:
    path = good_file(tmp_path)
    message = message_of(path, data={"dev": str(path)})
    assert "0 labelled rows with 0 labels remain without those that also occur in dev" in message


def test_a_dev_set_that_is_all_in_the_test(tmp_path: Path) -> None:
    other = good_file(tmp_path, "other.csv", [{"text": f"other {i}", "label": "ab"[i % 2]} for i in range(9)])
    message = message_of(good_file(tmp_path), data={"test": str(other), "dev": str(other)})
    assert "other.csv: every dev row is also in the test" in message


@pytest.mark.parametrize(
    ("name", "part"),
    [("hf://", "not a data set's name"), ("hf://a b", "not a data set's name"), ("hf://no/such", "cannot be loaded")],
)
def test_hub_names(name: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(name)
    assert str(caught.value).startswith(name)
    assert part in str(caught.value)


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"need the package datasets.*pip install 'cotune\[hub\]'"):
        read_table("hf://owner/name")


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: Task.from_rows([]), ("train rows", "no rows")),
        (lambda: Task.from_rows(["a"]), ("train rows, row 1", "a text")),
        (lambda: Task.from_rows("rows.csv"), ("the train rows: 'rows.csv' is a file's name", "Task.from_frame")),
        (lambda: Task.from_rows([("a", "b", "c")]), ("train rows, row 1",)),
        (lambda: Task.from_frame(5, input="a", output="b"), ("train rows", "int", "data frame")),
        (lambda: Task.from_frame(GOOD, input="txt", output="label"), ("no column 'txt'", "'text'")),
        (lambda: Task.from_frame(GOOD, input="text", output="text"), ("'text' is named twice",)),
        (lambda: Task.from_frame(GOOD, input=[], output="label"), ("no input column",)),
        (lambda: Task.from_frame(GOOD, input="text", output="label", limit={"trian": 3}), ("'trian'", "train, dev, test")),
        (lambda: Task.from_frame(GOOD, input="text", output="label", limit={"train": 0}), ("limit.train", "above 0")),
        (lambda: Task.from_frame(GOOD, input="text", output="label", metric="f2"), ("metric 'f2'", "accuracy")),
        (lambda: Task.from_frame(GOOD, input="text", output="label", test=GOOD[:0]), ("test rows", "no rows")),
        (lambda: Task.from_frame(pandas.DataFrame({"text": [], "label": []}), input="text", output="label"), ("no rows",)),
        (lambda: Task.from_frame(GOOD, input="text", output="label", labels=["a"]), ("row 2", "'b' is not among")),
        (lambda: Task.from_frame(GOOD, input="text", output="label", labels=[]), ("the list of labels is empty",)),
    ],
)  # fmt: skip
def test_broken_rows_in_python(call: Callable[[], Task], parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert not [part for part in parts if part not in str(caught.value)], str(caught.value)


def test_parquet_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(changed(9, label=None)), path)
    assert "d.parquet, row 10, column 'label': the label is empty" in message_of(path)


def test_a_message_that_asks_has_one_mark_at_its_end() -> None:
    asked = InputError("there is no column 'txt', did you mean 'text'?", where="a.csv", hint="Its columns: 'text'.")
    assert str(asked) == "a.csv: there is no column 'txt', did you mean 'text'? Its columns: 'text'."
    assert str(InputError("this is a folder")) == "this is a folder."


def test_messages_name_the_headers_of_the_file(tmp_path: Path) -> None:
    rows = [{"Customer message": row["text"], "label": row["label"]} for row in GOOD]
    blank = [*rows, {"Customer message": "", "label": "a"}]
    assert "line 42, column 'Customer message'" in message_of(good_file(tmp_path, rows=blank), input="Customer message")
    broken = [*rows, {"Customer message": "a\0b", "label": "a"}]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(as_lines(broken))
    assert "line 41, column 'Customer message'" in message_of(path, input="Customer message")
    missing = message_of(good_file(tmp_path, rows=rows), input="Customer message", output="lable")
    assert "Its columns: 'Customer message', 'label'" in missing
