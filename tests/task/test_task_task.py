"""A task from config, frames and lists: splits, leaks, labels, seeds, fingerprints."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import polars
import pytest

from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.errors import InputError


def rows(size: int, start: int = 0, labels: Sequence[str] = "abc") -> list[dict[str, str]]:
    return [{"text": f"message number {start + i}", "label": labels[i % len(labels)]} for i in range(size)]


def written(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def task_of(content: Any, **settings: Any) -> Task:
    return Task.from_frame(content, **{"input": "text", "output": "label", **settings})


def ids(task: Task) -> tuple[list[str], list[str]]:
    return [row.id for row in task.train], [row.id for row in task.dev]


def test_without_dev_and_test_both_are_cut() -> None:
    task = task_of(rows(1000))
    assert (task.test.n, len(task.dev), len(task.train)) == (200, 240, 560)
    assert task.labels == ("a", "b", "c")
    assert not set(ids(task)[0]) & set(ids(task)[1])
    assert not task.test.leaking_train_ids((*task.train, *task.dev))
    for split in (task.train, task.dev):
        shares = Counter(row.output for row in split)
        assert max(shares.values()) - min(shares.values()) <= 1 + len(split) % 3


def test_limits_count_all_labelled_rows(tmp_path: Path) -> None:
    train = written(tmp_path / "train.jsonl", rows(3000))
    test = written(tmp_path / "test.jsonl", rows(900, start=5000))
    config = config_from_data(train, input="text", output="label", data={"test": str(test)}, limit={"train": 500, "test": 300})
    task = Task.from_config(config)
    assert (len(task.train), len(task.dev), task.test.n) == (350, 150, 300)
    assert task.name == tmp_path.name
    config = config_from_data(train, input="text", output="label", data={"test": str(test)}, limit={"train": 500, "dev": 100})
    task = Task.from_config(config)
    assert (len(task.train), len(task.dev), task.test.n) == (400, 100, 900)


@pytest.mark.parametrize("outputs", [["a", "b"], ['{"a": 1, "b": 2}', '{"b": 3, "a": 4}'], ["1", "2.5"]])
def test_a_limited_test_is_known_by_all_rows_of_its_file(outputs: list[str]) -> None:
    content, test = rows(60, labels=outputs), rows(40, start=500, labels=outputs)
    whole = task_of(content, test=test).test
    few = [task_of(content, test=test, limit={"test": 20}, seed=seed).test for seed in (0, 1)]
    assert len({one.content_hash for one in few}) == 2
    assert {one.given_hash for one in few} == {whole.given_hash} == {whole.content_hash}


@pytest.mark.parametrize("size", [40, 60, 100])
def test_limited_tests_and_given_dev_rows_keep_the_shares_of_labels(size: int) -> None:
    labels = ["main"] * 81 + [f"rare{i}" for i in range(19)]
    train, dev, test = (rows(1000, start=start, labels=labels) for start in (0, 5000, 9000))
    rare = set()
    for seed in range(4):
        task = task_of(train, dev=dev, test=test, limit={"dev": size, "test": size}, seed=seed)
        counts = Counter(row.output for row in task.dev)
        in_test = task.test.count_outputs(lambda label: label == "main")
        assert counts["main"] == pytest.approx(0.81 * size, abs=1) and in_test == pytest.approx(0.81 * size, abs=1)
        rare |= set(counts)
    assert len(rare) > 17


def test_dev_is_at_most_300_rows_of_its_own_accord() -> None:
    assert len(task_of(rows(3000), test=rows(100, start=9000)).dev) == 300


def test_given_splits_stay_as_they_are() -> None:
    task = task_of(rows(100), dev=rows(40, start=200), test=rows(50, start=400))
    assert (len(task.train), len(task.dev), task.test.n) == (100, 40, 50)
    assert [row.id for row in task.train] == [f"train:{number}" for number in range(1, 101)]
    assert task.dev[0].id == "dev:1"


def test_one_limit_does_not_move_another_cut() -> None:
    plain, limited = task_of(rows(1000)), task_of(rows(1000), limit={"train": 300})
    assert plain.test == limited.test
    assert set(ids(limited)[0]) | set(ids(limited)[1]) < set(ids(plain)[0]) | set(ids(plain)[1])


def test_rows_that_repeat_the_test_leave_train() -> None:
    test = rows(30, start=500)
    leaks = [{"text": row["text"].upper() + " ", "label": row["label"]} for row in test[:4]] + [dict(test[5]), dict(test[5])]
    task = task_of([*rows(100), *leaks], test=test)
    assert task.test.n == 30
    assert len(task.train) + len(task.dev) == 100
    finding = task.checks["test_rows_in_train"]
    assert (finding.count, finding.severity) == (5, "warning")
    assert "5 test rows also occur in train (1 of them exactly). 6 rows were removed from train" in finding.message
    assert finding.examples == tuple(f"train:{number}" for number in range(101, 106))
    assert task.checks.counts["train_rows_in_test"] == 6


def test_dev_yields_to_test_and_train_to_dev() -> None:
    shared = rows(3, start=900)
    task = task_of([*rows(60), *rows(5, start=300)], dev=[*rows(30, start=300), *shared], test=[*rows(30, start=600), *shared])
    assert (len(task.train), len(task.dev), task.test.n) == (60, 30, 33)
    assert task.checks["dev_rows_in_test"].count == 3
    assert task.checks["train_rows_in_dev"].examples == tuple(f"train:{number}" for number in range(61, 66))


def test_groups_are_never_torn() -> None:
    content = [{**row, "user": f"u{index // 8}"} for index, row in enumerate(rows(800))]
    task = task_of(content, group="user")
    train, dev = ({row.group for row in split} for split in (task.train, task.dev))
    assert not train & dev
    assert task.test.groups_shared_with((*task.train, *task.dev)) == 0
    assert 100 < len(task.dev) < 300


def test_labels_are_stripped_given_ones_too() -> None:
    content = [{**row, "label": f" {row['label']}\t"} for row in rows(60)]
    assert task_of(content).labels == ("a", "b", "c")
    assert task_of(content, labels=["c ", "b", "a", "d"]).labels == ("a", "b", "c", "d")


def test_several_input_columns_keep_their_order_and_one_may_be_empty() -> None:
    content = [{"title": f"t{i}", "body": None if i == 3 else f"b{i}", "label": "ab"[i % 2]} for i in range(60)]
    task = task_of(content, input=["body", "title"], test=[{"title": "x", "body": "y", "label": "a"}])
    assert task.input_fields == ("body", "title")
    row = next(row for row in (*task.train, *task.dev) if row.id == "train:4")
    assert list(row.fields.items()) == [("body", ""), ("title", "t3")]
    assert task.checks["empty_fields"].examples == ("train:4",)


@pytest.mark.parametrize("kind", [pandas.DataFrame, polars.DataFrame, lambda content: content])
def test_frames_and_lists_make_the_same_task(kind: Any) -> None:
    content = rows(200)
    task = task_of(kind(content))
    assert task.fingerprint == Task.from_rows(content, input="text", output="label").fingerprint
    assert ids(task) == ids(Task.from_rows([(row["text"], row["label"]) for row in content], input="text", output="label"))


def test_files_of_every_kind_make_the_same_task(tmp_path: Path) -> None:
    frame = pandas.DataFrame(rows(200))
    frame.to_csv(tmp_path / "d.csv", index=False)
    frame.to_csv(tmp_path / "d.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "d.parquet")
    written(tmp_path / "d.jsonl", rows(200))
    found = [
        Task.from_config(config_from_data(tmp_path / f"d.{kind}", input="text", output="label"))
        for kind in ("csv", "tsv", "parquet", "jsonl")
    ]
    assert len({task.fingerprint for task in found}) == 1


def test_the_fingerprint_is_of_the_content() -> None:
    content = rows(200)
    task = task_of(content, name="one")
    assert task_of(content, name="two").fingerprint == task.fingerprint
    assert task_of(content, seed=1).fingerprint != task.fingerprint
    assert task_of(content, metric="macro_f1").fingerprint != task.fingerprint
    assert task_of(content, labels=["a", "b", "c", "d"]).fingerprint != task.fingerprint
    assert task_of(content, limit={"train": 100}).fingerprint != task.fingerprint
    content[7] = {**content[7], "text": "other"}
    assert task_of(content).fingerprint != task.fingerprint


def test_the_seed_alone_decides() -> None:
    content = rows(300)
    assert ids(task_of(content)) == ids(task_of(content))
    assert ids(task_of(content)) != ids(task_of(content, seed=1))
    random.seed(5)
    assert ids(task_of(content)) == ids(task_of(content))


def test_rare_labels_stay_in_train() -> None:
    content = [*rows(500, labels="ab"), *({"text": f"rare {i}", "label": f"r{i // 2}"} for i in range(20))]
    for seed in range(5):
        task = task_of(content, seed=seed, limit={"train": 100})
        assert {row.output for row in task.train} == set(task.labels)


def test_missing_values_are_not_labels() -> None:
    content = pandas.DataFrame([*rows(60), {"text": "not labelled", "label": None}])
    assert task_of(content, labels=list(content.label.unique()), on_blank="skip").labels == ("a", "b", "c")
    assert task_of(rows(60), labels=["a", "b", "c", float("nan"), " ", ""]).labels == ("a", "b", "c")


def test_a_frame_may_be_a_path_and_errors_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "rows.jsonl", rows(60))
    assert task_of("~/rows.jsonl").fingerprint == task_of(Path("~/rows.jsonl")).fingerprint == task_of(rows(60)).fingerprint
    with pytest.raises(InputError, match=r"gone\.jsonl: there is no such file"):
        task_of(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("make", [pandas.DataFrame, polars.DataFrame, list])
def test_columns_that_are_not_named_are_suggested(make: Any) -> None:
    content = make([{"Customer message": f"message {i} from a customer", "queue": "abc"[i % 3]} for i in range(60)])
    of = Task.from_rows if make is list else Task.from_frame
    suggested = "'Customer message', 'queue'. For example: input='Customer message', output='queue'"
    for named in ({}, {"input": "Customer message"}, {"output": "queue"}):
        with pytest.raises(InputError, match="the train rows: the columns to use are not given") as told:
            of(content, **named)
        assert suggested in str(told.value)
    with pytest.raises(InputError, match="no column 'queu', did you mean 'queue'"):
        of(content, input="Customer message", output="queu")


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "a"])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(InputError, match="seed must be a whole number from 0"):
        task_of(rows(60), seed=seed)


def test_repr_is_short_and_shows_no_row() -> None:
    task = task_of(rows(60), name="mail")
    assert repr(task) == "Task('mail', text -> label (3 labels), train=28, dev=12, test=20)"
    assert task.measure(["a"], ["a"], task.labels) == 1.0


def test_input_columns_of_lists_are_shown_as_text_and_told() -> None:
    slots: list[Any] = [["time", "day"], [], {"a": 1}]
    content = [{"text": f"row {i}", "slots": slots[i % 3], "label": "ab"[i % 2]} for i in range(60)]
    task = Task.from_rows(content, input=["text", "slots"], output="label")
    shown = ("time, day", "none", '{"a": 1}')
    train = (*task.train, *task.dev)
    assert train and all(row.fields["slots"] == shown[int(row.fields["text"].split()[1]) % 3] for row in train)
    finding = task.checks["list_inputs"]
    assert finding.severity == "info" and finding.count == 60 and "'slots' holds lists or objects in 60 rows" in finding.message
    plain = [{**row, "slots": shown[i % 3]} for i, row in enumerate(content)]
    same = Task.from_rows(plain, input=["text", "slots"], output="label")
    assert same.fingerprint == task.fingerprint and "list_inputs" not in same.checks
    with pytest.raises(InputError, match=r"column 'slots': the cell holds a list"):
        Task.from_rows(content, input="text", output="slots", type="label")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": 3}, "3 is not a column's name"),
        ({"input": ["text", None]}, "None is not a column's name"),
        ({"output": ["label", 4]}, "4 is not a column's name"),
        ({"labels": "yes"}, "labels must be a list"),
        ({"limit": 500}, "limit must be a mapping"),
    ],
)
def test_arguments_of_another_type_are_named(wrong: dict[str, Any], message: str) -> None:
    rows = [{"text": f"message {i}", "label": ("yes", "no")[i % 2]} for i in range(30)]
    for make in (Task.from_frame, Task.from_rows):
        with pytest.raises(InputError, match=message):
            make(rows, **({"input": "text", "output": "label"} | wrong))
