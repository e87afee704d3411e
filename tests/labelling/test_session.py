"""Answers are on disk when they are given, can be taken back, and are gone on with."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotune.config.task import Task
from cotune.errors import InputError
from cotune.labelling.keys import MOST_KEYED, label_keys, matching
from cotune.labelling.picking import Pick
from cotune.labelling.session import Earlier, Session, read_session, session_file
from cotune.task.reading.cells import input_text
from cotune.task.reading.read import read_sheet
from cotune.task.values.label_type import LabelType

LABELS = ("fruit", "animal", "tool")
IDENTITY = {"bundle": "b", "pool": "p", "n": 3}


def picks(count: int = 3) -> list[Pick]:
    texts = ["a plum, and\na pear", 'a "dog"', "größer als eine Säge"]
    shares = {"animal": 0.5, "fruit": 0.3, "tool": 0.2}
    return [Pick(i + 2, {"id": f"{i}", "text": texts[i]}, {"text": texts[i]}, shares) for i in range(count)]


def session(out: Path) -> Session:
    return Session(out, "label", LABELS, picks(), Earlier.read(out, ("text",), "label"), IDENTITY)


def rows(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_answer_is_on_disk_and_can_be_taken_back(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    asked = session(out)
    asked.save()
    assert not out.exists()
    asked.give("fruit")
    assert rows(out) == [{"id": "0", "text": "a plum, and\na pear", "label": "fruit"}]
    asked.give(None)
    asked.give("animal")
    assert [row["label"] for row in rows(out)] == ["fruit", "animal"] and asked.current is None
    assert (asked.labelled, asked.skipped, asked.agreed) == (2, 1, 1)
    assert asked.undo() and asked.undo() and asked.undo() and not asked.undo()
    assert not out.exists() and asked.at == 0


def test_an_unfinished_session_goes_on_in_another_process(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    session(out).save()
    session(out).give("tool")
    found = read_session(out, IDENTITY, ("text",))
    assert found is not None and found.at == 1 and found.current == picks()[1]
    found.give(None)
    found = read_session(out, IDENTITY, ("text",))
    assert found is not None
    found.give("animal")
    found.close()
    assert not session_file(out).exists() and read_session(out, IDENTITY, ("text",)) is None
    assert [(row["id"], row["label"]) for row in rows(out)] == [("0", "tool"), ("2", "animal")]


def test_a_kill_between_the_two_files_loses_no_answer_and_doubles_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "labelled.csv"
    session(out).save()
    asked = read_session(out, IDENTITY, ("text",))
    assert asked is not None
    with monkeypatch.context() as patch:
        patch.setattr("cotune.labelling.session.write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            asked.give("fruit")
    assert len(rows(out)) == 1
    found = read_session(out, IDENTITY, ("text",))
    assert found is not None and found.at == 0
    found.give("tool")
    assert [row["label"] for row in rows(out)] == ["tool"]


def test_rows_of_an_earlier_time_stay_in_front_and_their_columns_too(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    out.write_text("label,text,more\ntool,an axe,x\n", encoding="utf-8")
    earlier = Earlier.read(out, ("text",), "label")
    assert earlier.known == {"an axe"}
    asked = session(out)
    asked.give("fruit")
    assert [list(row.values()) for row in rows(out)] == [["tool", "an axe", "x", ""], ["fruit", "a plum, and\na pear", "", "0"]]
    asked = read_session(out, IDENTITY, ("text",))  # type: ignore[assignment]
    asked.give("fruit")
    assert [row["text"] for row in rows(out)] == ["an axe", "a plum, and\na pear", 'a "dog"']


def test_a_file_of_something_else_is_not_added_to(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    out.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column 'text'"):
        Earlier.read(out, ("text",), "label")


def test_separator_and_byte_order_mark_of_the_file_stay(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    out.write_bytes(b"\xef\xbb\xbftext;label\nan axe;tool\n")
    session(out).give("fruit")
    assert out.read_bytes().startswith(b"\xef\xbb\xbftext;label;id\nan axe;tool;\n")
    session_file(out).rename(tmp_path / "kept")
    out.unlink()
    (tmp_path / "kept").rename(session_file(out))
    with pytest.raises(InputError, match="has 0 rows, but had 1"):
        read_session(out, IDENTITY, ("text",))


def test_a_session_of_other_rows_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    session(out).save()
    with pytest.raises(InputError, match="another pool"):
        read_session(out, {**IDENTITY, "pool": "q"}, ("text",))
    for text in (
        "",
        "{",
        "[]",
        '{"format": 2}',
        json.dumps({**json.loads(session_file(out).read_text()), "actions": [[1, "a"]]}),
    ):
        session_file(out).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="cannot be read"):
            read_session(out, IDENTITY, ("text",))


def test_labels_that_are_none_are_refused(tmp_path: Path) -> None:
    asked = session(tmp_path / "labelled.csv")
    with pytest.raises(InputError, match="not a label"):
        asked.give("stone")
    assert asked.at == 0


def test_a_run_reads_the_file(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    asked = session(out)
    for label in LABELS:
        asked.give(label)
    given = [*rows(out), *({"id": "", "text": f"thing {i}", "label": LABELS[i % 3]} for i in range(60))]
    task = Task.from_rows(given, input="text", output="label", seed=0)
    assert set(task.labels) == set(LABELS)


def test_labels_have_keys_that_are_no_commands() -> None:
    keys = label_keys([f"l{i}" for i in range(MOST_KEYED)])
    assert keys is not None and len(set(keys)) == MOST_KEYED and not set(keys) & set("usq")
    assert label_keys([f"l{i}" for i in range(MOST_KEYED + 1)]) is None


def test_a_typed_text_means_labels_that_begin_with_it_first() -> None:
    shares = {"lost_card": 0.4, "card_arrival": 0.3, "discard": 0.2, "pin": 0.1}
    assert matching("Card", shares) == ["card_arrival", "lost_card", "discard"]
    assert matching("Card", {**shares, "card": 0.01})[0] == "card", "a label's whole name is that label"
    assert matching("", shares) == list(shares) and matching("x", shares) == []


def test_rows_that_were_added_and_labels_that_were_corrected_meanwhile_stay(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    asked = session(out)
    asked.give("fruit")
    text = out.read_text(encoding="utf-8")
    out.write_text(text.replace(",fruit", ",animal") + "9,by hand,tool\n", encoding="utf-8")
    found = read_session(out, IDENTITY, ("text",))
    assert found is not None
    found.give("animal")
    assert [(row["id"], row["label"]) for row in rows(out)] == [("9", "tool"), ("0", "animal"), ("1", "animal")]


def test_a_collected_row_goes_into_the_columns_of_the_file(tmp_path: Path) -> None:
    """A server collects rows by the names of fields, and a file may have a header that is no name."""
    out = tmp_path / "train.csv"
    out.write_text("Customer message,label\nhello,fruit\n", encoding="utf-8")
    fields = {"Customer_message": "a new one"}
    pick = Pick(1, dict(fields), fields, {"fruit": 1.0})
    Session(out, "label", LABELS, [pick], Earlier.read(out, ("Customer_message",), "label"), IDENTITY).give("tool")
    assert rows(out) == [
        {"Customer message": "hello", "label": "fruit"},
        {"Customer message": "a new one", "label": "tool"},
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_file_keeps_the_types_of_its_columns(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"train{suffix}"
    day = datetime.date(2026, 1, 2)
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a", "b"], "day": [day, day], "label": [1, 2]}), out)
    else:
        out.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    pick = Pick(1, {"text": "c", "day": "2026-03-04"}, {"text": "c"}, {"1": 1.0})
    Session(out, "label", ("1", "2"), [pick], Earlier.read(out, ("text",), "label"), IDENTITY).give("2")
    found = read_sheet(out)
    assert [row["label"] for row in found.rows] == [1, 2, 2]
    assert suffix == ".jsonl" or [row["day"] for row in found.rows] == [day, day, datetime.date(2026, 3, 4)]


def test_rows_that_were_labelled_before_are_known_by_what_a_prompt_shows(tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    out.write_text('{"text": ["a", "b"], "label": "tool"}\n{"text": 0, "label": "fruit"}\n')
    assert Earlier.read(out, ("text",), "label").known == {"a, b", "0"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kill", [False, True])
def test_rows_of_the_session_are_known_whatever_the_file_makes_of_them(
    tmp_path: Path, suffix: str, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"labelled{suffix}"
    cells: list[Any] = [["a0", "b"], [], {"a": ["b"]}, {"c": 1.5}, "a text", "last"]
    asked = [Pick(i, {"text": cell}, {"text": str(input_text(cell))}, {"fruit": 1.0}) for i, cell in enumerate(cells)]
    Session(out, "label", LABELS, asked, Earlier(), IDENTITY).save()
    for number in range(len(cells) - 1):
        found = read_session(out, IDENTITY, ("text",))
        assert found is not None and found.at == number
        if kill:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(
                    "cotune.labelling.session.write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt)
                )
                found.give("tool")
            found = read_session(out, IDENTITY, ("text",))
            assert found is not None and found.at == number
        found.give("fruit")
        assert [row["label"] for row in read_sheet(out).rows] == ["fruit"] * (number + 1)


def test_a_number_that_the_file_makes_a_decimal_is_known_when_the_session_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "labelled.jsonl"
    out.write_text('{"text": 0.5, "label": "tool"}\n')
    asked = [Pick(i, {"text": f"{i}"}, {"text": f"{i}"}, {"fruit": 1.0}) for i in range(3)]
    Session(out, "label", LABELS, asked, Earlier.read(out, ("text",), "label"), IDENTITY).give("fruit")
    found = read_session(out, IDENTITY, ("text",))
    assert found is not None
    found.give("animal")
    assert [(row["text"], row["label"]) for row in read_sheet(out).rows] == [(0.5, "tool"), (0.0, "fruit"), (1.0, "animal")]


@pytest.mark.parametrize(
    ("held", "text", "wanted"),
    [
        *((1, text, text) for text in ("007", "1_000", "+7", "7.0", " 7")),
        *((1.5, text, text) for text in ("007", "12345678901234567890", "1_0", "nan", "inf")),
        (1, "-70", -70),
        (1.5, "5", 5.0),
        (1.5, "3.50", 3.5),
        (True, "true", True),
    ],
)
def test_a_value_is_not_changed_to_fit_its_column(tmp_path: Path, held: Any, text: str, wanted: Any) -> None:
    out = tmp_path / "train.jsonl"
    out.write_text(json.dumps({"id": held, "text": "a", "label": "tool"}) + "\n")
    pick = Pick(1, {"id": text, "text": "b"}, {"text": "b"}, {"fruit": 1.0})
    Session(out, "label", LABELS, [pick], Earlier.read(out, ("text",), "label"), IDENTITY).give("fruit")
    found = read_sheet(out).rows[1]["id"]
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(("suffix", "typed"), [(".parquet", True), (".jsonl", True), (".csv", False)])
@pytest.mark.parametrize(
    ("kind", "labels", "own"), [("int", ("1", "2"), [2, 1]), ("bool", ("FALSE", "TRUE"), [True, False]), ("text", LABELS, None)]
)
def test_a_new_file_has_labels_in_the_type_of_the_task(
    tmp_path: Path, suffix: str, typed: bool, kind: LabelType, labels: tuple[str, ...], own: list[Any] | None
) -> None:
    out = tmp_path / f"labelled{suffix}"
    Session(out, "label", labels, picks(), Earlier(), IDENTITY, label_type=kind).give(labels[1])
    wanted: list[Any] = own if own and typed else [labels[1], labels[0]]
    assert [row["label"] for row in read_sheet(out).rows] == wanted[:1]
    found = read_session(out, IDENTITY, ("text",), kind)
    assert found is not None and found.actions == [(0, labels[1])]
    found.give(labels[0])
    assert [row["label"] for row in read_sheet(out).rows] == wanted
    if suffix == ".jsonl" and kind == "int":
        out.write_text(out.read_text().replace('"label": 2', '"label": 1'))
        found = read_session(out, IDENTITY, ("text",), kind)
        assert found is not None and found.actions[0] == (0, "1"), "a label that was corrected by hand"


def test_truth_values_stay_so_in_a_later_session(tmp_path: Path) -> None:
    """The labels are spelled as in the task's data, the file has truth values."""
    out, labels = tmp_path / "labelled.jsonl", ("False", "True")
    for _ in range(2):
        earlier = Earlier.read(out, ("text",), "label")
        one = Session(out, "label", labels, picks(), earlier, IDENTITY, label_type="bool")
        one.give("True")
        one.give("False")
        (tmp_path / "labelled.jsonl.session.json").unlink()
    assert [row["label"] for row in read_sheet(out).rows] == [True, False] * 2


def test_blank_lines_of_a_file_do_not_become_rows(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    out.write_text("text,label\nan axe,tool\n\na fig,fruit\n", encoding="utf-8")
    session(out).give("fruit")
    assert [row["text"] for row in rows(out)] == ["an axe", "a fig", "a plum, and\na pear"]
