"""Names of labels as rows: which rows they are, when they are learnt from, and that a run tells it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.probe_search.readouts.label_names import PREFIX, judge_names, label_name_rows
from cotune.cycle.probe_search.splits import Split, with_rows
from cotune.cycle.run import run as run_cycle
from cotune.task.example import Example

if TYPE_CHECKING:
    from conftest import Bench

WORDS = ("apple", "pear", "plum", "fig", "cat", "dog", "cow", "hen", "saw", "axe", "drill", "file")


def task_of(*, named: bool, count: int = 3) -> Task:
    """Few rows, which hold the name of their label, or another word that says as much."""
    words = WORDS if named else tuple(reversed(WORDS))
    rows = [
        {"text": f"{word} {number} {word}", "label": label}
        for label, word in zip(WORDS, words, strict=True)
        for number in range(count * 4)
    ]
    random.Random(1).shuffle(rows)
    train = [row for label in WORDS for row in [row for row in rows if row["label"] == label][:count]]
    rest = [row for row in rows if row not in train]
    return Task.from_rows(train, test=rest[:60], input="text", output="label", name="names")


def run(bench: Bench, out: Path, task: Task, **search: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "40ktok", "seed": 3, "tune": {"rank": 2, "max_epochs": 1}}
    # TF-IDF tells these rows apart by itself.
    search = {"pool": 4, "max_cycles": 1, "tfidf": False, **search}
    settings |= {"engine": {"dtype": "float32", "threads": 1}, "search": search}
    return dict(run_cycle(config_in_memory(name="names", input=["text"], output="label", **settings), out, task=task).summary)


def test_a_name_is_a_row_of_its_label() -> None:
    rows = [{"note": "a long text about it", "code": f"x{n}", "kind": ("bookHotel", "pay_bill")[n % 2]} for n in range(24)]
    names = label_name_rows(Task.from_rows(rows, input=["code", "note"], output="kind"))
    assert [(row.id, row.output, dict(row.fields)) for row in names] == [
        (f"{PREFIX}bookHotel", "bookHotel", {"code": "", "note": "book hotel"}),
        (f"{PREFIX}pay_bill", "pay_bill", {"code": "", "note": "pay bill"}),
    ]
    held = Split(names[:1], names[1:])
    assert with_rows([held], names) == (Split((names[0], *names), names[1:]),)


def test_numbers_are_no_names() -> None:
    rows = [{"text": f"row {n}", "stars": str(n % 3 + 1)} for n in range(24)]
    assert label_name_rows(Task.from_rows(rows, input="text", output="stars", type="label")) == ()


def test_names_are_learnt_from_where_rows_hold_them(bench: Bench, tmp_path: Path) -> None:
    summary = run(bench, tmp_path / "run", task_of(named=True))
    told = summary["label_names"]
    assert told["used"] and told["rows"] == len(WORDS) and told["log_loss"] < told["without"], told
    assert "held-out log-loss" in told["text"], told["text"]
    off = run(bench, tmp_path / "off", task_of(named=True), label_names=False)
    assert off["label_names"] is None
    # The arms of both are frozen probes of the same rows but for the names.
    assert summary["arms"]["seed_prompt"]["log_loss"] < off["arms"]["seed_prompt"]["log_loss"]


def test_names_that_mislead_are_not_learnt_from(bench: Bench, tmp_path: Path) -> None:
    told = run(bench, tmp_path / "run", task_of(named=False))["label_names"]
    assert not told["used"] and told["log_loss"] > told["without"] - 0.05, told


@pytest.mark.parametrize(("gain", "used"), [(0.01, True), (-0.01, False)])
def test_any_lower_held_out_loss_is_enough(gain: float, used: bool) -> None:
    spread = np.random.default_rng(0).normal(0.0, 1.0, 60)
    spread -= spread.mean()
    steps: list[dict[str, Any]] = []

    def step(kind: str, key: object, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        steps.append(effect())
        return steps[-1]

    context: Any = SimpleNamespace(journal=SimpleNamespace(step=step))
    # Far within a standard error, which is 0.13.
    having: Any = SimpleNamespace(mean=1.0 - gain, gap=lambda other: spread - gain)
    without: Any = SimpleNamespace(mean=1.0)
    assert judge_names(context, label_name_rows(task_of(named=True)), without, having) is used
    assert steps[0]["used"] is used and (" are used" in steps[0]["text"]) is used


def test_further_rows_of_a_group_that_is_held_out_are_not_learnt_from() -> None:
    def row(name: str, group: str | None) -> Example:
        return Example(name, {"text": name}, "a", group)

    splits = [Split((row("1", "a"),), (row("2", "b"),)), Split((row("2", "b"),), (row("1", "a"),))]
    found = with_rows(splits, [row("3", "a"), row("4", "b"), row("5", None)])
    assert [[one.id for one in split.learn] for split in found] == [["1", "3", "5"], ["2", "4", "5"]]
