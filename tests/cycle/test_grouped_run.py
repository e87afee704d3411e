"""Rows that belong together: a whole run counts groups and not rows, in every number that it tells."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import labelled_rows

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle import summary as told
from cotune.cycle.journal import read_journal
from cotune.cycle.run import run as run_cycle
from cotune.evaluate import scoring
from cotune.run_files import JOURNAL
from cotune.task.example import Example, by_group, groups_of

if TYPE_CHECKING:
    from conftest import Bench


def grouped_rows(count: int, name: str) -> list[dict[str, str]]:
    """Rows in groups of three."""
    return [{**row, "text": f"{name} {row['text']}", "of": f"{name}{i // 3}"} for i, row in enumerate(labelled_rows(count))]


def test_groups_reach_gains_intervals_and_the_winners_correction(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"winners_curse": [], "mean_interval": []}
    for name, calls in seen.items():
        place = told if name == "winners_curse" else scoring
        real = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, _real=real, _calls=calls, **k: _calls.append(k) or _real(*a, **k))
    splits = {name: grouped_rows(count, name) for name, count in (("train", 60), ("dev", 30), ("test", 45))}
    task = Task.from_rows(splits["train"], dev=splits["dev"], test=splits["test"], input="text", output="label", group="of")
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "30ktok", "seed": 4}
    settings |= {"tune": {"batch_size": 8, "rank": 2}, "search": {"pool": 4}, "engine": {"dtype": "float32"}}
    config = config_in_memory(name="grouped", input=["text"], output="label", **settings)
    summary = run_cycle(config, tmp_path / "run", task=task).summary
    tests = {gain["test"] for name, gain in summary["gains"].items() if not gain["identical"]}
    assert tests == {"paired permutation"}
    # A reference that the budget had no room for has no score.
    references = [one for one in summary["references"].values() if one and "score" in one]
    assert len(seen["mean_interval"]) == 5 + len(references) and len(references) >= 2 and seen["winners_curse"]
    for call in seen["mean_interval"]:
        assert len(np.unique(call["groups"])) == 15
    assert len(np.unique(seen["winners_curse"][0]["groups"])) == 10
    start = next(e["value"] for e in read_journal(tmp_path / "run" / JOURNAL) if e["kind"] == "start")
    assert "45 test rows in 15 groups" in start["detectable"]
    # A race bets on whole groups, so that the rows of one are met side by side.
    order = start["dev_groups"]
    assert len(order) == 30 and sum(one != two for one, two in pairwise(order)) == 9 and order != sorted(order)


def test_groups_stand_side_by_side_and_rows_without_one_are_alone() -> None:
    names = ["a", None, "b", "a", None, "b", "a"]
    rows = [Example(f"dev:{i}", {"text": str(i)}, "x", name) for i, name in enumerate(names)]
    groups = groups_of(rows)
    assert groups is not None and len(np.unique(groups)) == 4
    assert by_group(rows, [5, 1, 0, 4, 2, 6, 3]) == [5, 2, 1, 0, 6, 3, 4]
    alone = [Example(str(i), {"text": str(i)}, "x") for i in range(3)]
    assert groups_of(alone) is None and by_group(alone, [2, 0, 1]) == [2, 0, 1]
