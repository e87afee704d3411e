"""The examples that cotune run --example copies: what their pages say holds, they ship in the wheel, and they can be run."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from test_support_data import jaccard_matrix

from command_line import call
from cotune.cli import example
from cotune.cli.example import copy_example, examples_folder
from cotune.config import load_config
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.task.values.copied import values_in_texts
from tiny import save_tiny

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("courier", "routing", "spam", "support")


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name in ("train", "test"):
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        found[name] = [json.loads(line) for line in text.splitlines()]
    return found


def text_of(row: dict[str, Any]) -> str:
    return " ".join(value for key, value in row.items() if key not in ("label", "order"))


def label_of(row: dict[str, Any]) -> str:
    """The label, or the closed field of an answer in JSON."""
    return str(row["label"] if "label" in row else row["order"]["wants"])


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_enough_mixed_and_unlike_each_other(name: str) -> None:
    rows = rows_of(examples_folder() / name)
    assert len(rows["train"]) >= 120 and len(rows["test"]) >= 60
    assert {label_of(row) for row in rows["train"]} == {label_of(row) for row in rows["test"]}
    for part in rows.values():
        labels = [label_of(row) for row in part]
        assert sum(one != other for one, other in pairwise(labels)) > len(labels) / 3
    texts = [text_of(row) for part in rows.values() for row in part]
    assert all(text == text.strip() and not re.search(r"[\r\n\t]", text) for text in texts)
    assert jaccard_matrix(texts).max() < 0.35
    assert Counter(" ".join(text.lower().split()[:3]) for text in texts).most_common(1)[0][1] <= max(2, 0.02 * len(texts))


@pytest.mark.parametrize("name", ["routing", "spam"])
def test_the_page_states_origin_licence_counts_and_rows(name: str) -> None:
    folder = examples_folder() / name
    rows, page = rows_of(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert "written for this project, not collected" in page and "Apache-2.0" in page
    counts = {split: Counter(row["label"] for row in part) for split, part in rows.items()}
    for label in counts["train"]:
        assert re.search(rf"\| `{label}` \| [^|]+ \| {counts['train'][label]} \| {counts['test'][label]} \|", page), label
    assert f"| {len(rows['train'])} | {len(rows['test'])} |" in page
    labels = {row.get("text") or row["message"]: row["label"] for part in rows.values() for row in part}
    quoted = re.findall(r"^\| [^|`]+ \| `(\w+)` \| ([^|]+) \|$", page, flags=re.MULTILINE)
    assert len(quoted) >= 5
    for label, message in quoted:
        assert labels.get(message) == label, message
    lengths = sorted(len((row.get("text") or row["message"]).split()) for part in rows.values() for row in part)
    assert f"{lengths[0]} to {lengths[-1]} words" in page and f"{int(np.median(lengths))} at the median" in page
    assert jaccard_matrix([text_of(row) for part in rows.values() for row in part]).max() < 0.2


def test_values_of_the_courier_stand_in_the_messages_and_hardly_recur() -> None:
    folder = examples_folder() / "courier"
    rows, page = rows_of(folder), (folder / "README.md").read_text(encoding="utf-8")
    task = Task.from_config(load_config(folder / "task.yaml"))
    standing = values_in_texts(task.output.schema, *zip(*((r.output, r.text) for r in (*task.train, *task.dev)), strict=True))
    assert [one.path for one in task.output.copied] == list(standing)
    assert set(standing) == {"name", "from", "to", "day", "time", "items[]", "kilos"}
    assert all(one.found >= 0.99 * one.values for one in standing.values())
    for field in ("name", "from", "to", "kilos"):
        values = [str(row["order"][field]).lower() for part in rows.values() for row in part if field in row["order"]]
        assert len(set(values)) == len(values), field
    for split, part in rows.items():
        assert Counter(label_of(row) for row in part).most_common(1)[0][1] < 0.55 * len(part), split
        for field in ("name", "from", "to", "day", "time", "kilos"):
            assert 0 < sum(field not in row["order"] for row in part) < len(part), field
    assert "written for this project, not collected" in page and "Apache-2.0" in page
    counts = {
        split: Counter(key for row in part for key, value in row["order"].items() if value) for split, part in rows.items()
    }
    for field in counts["train"]:
        assert re.search(rf"\| `{field}` \| [^|]+ \| {counts['train'][field]} \| {counts['test'][field]} \|", page), field
    messages = {row["message"]: row["order"] for part in rows.values() for row in part}
    quoted = re.findall(r"^\| [^|`]+ \| ([^|]+) \| `(\w+)`: ([^|]+) \|$", page, flags=re.MULTILINE)
    assert len(quoted) >= 5
    for message, field, value in quoted:
        right = messages[message].get(field, "none")
        assert (", ".join(right) if isinstance(right, list) else str(right)) == value, message


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_example_is_a_task_without_warnings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task, new = copy_example(name)
    assert task == Path(name) / "task.yaml" and new
    found = Task.from_config(load_config(task))
    assert len(found.train) + len(found.dev) >= 120 and found.test.n >= 60
    assert not [finding for finding in found.checks.findings if finding.severity == "warning"]
    (tmp_path / name / "train.jsonl").write_text("mine")
    assert copy_example(name) == (task, False)
    assert (tmp_path / name / "train.jsonl").read_text() == "mine", "what the user changed stays"


def test_what_is_no_example_or_in_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'courier', 'routing', 'spam', 'support'"):
        copy_example("spma")
    (tmp_path / "spam").write_text("mine")
    with pytest.raises(InputError, match="another file here is called spam"):
        copy_example("spam")
    with pytest.raises(InputError, match=r"no example '\.\./spam'"):
        copy_example("../spam")


def test_a_wheel_brings_the_examples_and_they_are_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.setattr(example.cotune, "__file__", str(tmp_path / "site" / "cotune" / "__init__.py"))
    assert examples_folder() == tmp_path / "site" / "cotune" / "examples"
    for name in NAMES:
        here = ROOT / "examples" / name
        assert {p.name: p.read_bytes() for p in (examples_folder() / name).iterdir()} == {
            p.name: p.read_bytes() for p in here.iterdir()
        }


def test_one_command_copies_an_example_and_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_tiny(tmp_path / "model")
    settings = ["search.pool=2", "search.max_cycles=1", "evaluate.robustness=false", "engine.threads=1"]
    arguments = ["run", "--example", "spam", "tune.rank=2", "limit.test=20", "limit.train=60", *settings, "--model", str(model)]
    ended = call(*arguments, "--budget", "25ktok", "--quiet")
    assert not ended.code, ended.stderr
    out = tmp_path / "runs" / "spam"
    assert (tmp_path / "spam" / "task.yaml").is_file() and (out / "best" / "manifest.json").is_file()
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert next(len(event["value"]["proposals"]) for event in events if event["kind"] == "pool") == 2
