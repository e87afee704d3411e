"""Every way trains as many rows, no cell is run twice, and the differences are paired by seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_racing_benchmark import made_set

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import refit


def test_all_ways_run_once_and_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_set(tmp_path / "data" / "trec6")
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(save_tiny(tmp_path / "model"))]
    sizes = ["--rows", "16", "--held-out", "8", "--steps", "4", "--seeds", "1", "2"]
    assert refit.main([*places, *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(cell["seed"], cell["way"]) for cell in found["cells"]] == [(s, w) for s in (1, 2) for w in refit.WAYS]
    assert refit.main([*places, *sizes]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == found["cells"]
    difference = found["against_decay"]["refit"]["raw"]["score"]
    by_way = {(cell["seed"], cell["way"]): cell["raw"]["score"] for cell in found["cells"]}
    apart = [by_way[seed, "refit"] - by_way[seed, "decay"] for seed in (1, 2)]
    assert difference["seeds"] == 2 and difference["mean"] == pytest.approx(sum(apart) / 2)
    assert all(0 <= cell["head"]["score"] <= 1 and cell["head"]["log_loss"] > 0 for cell in found["cells"])


def test_more_steps_are_told_against_the_fewest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_set(tmp_path / "data" / "trec6")
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(save_tiny(tmp_path / "model"))]
    sizes = ["--rows", "16", "--held-out", "8", "--steps", "8", "4", "--seeds", "1", "2", "--ways", "decay"]
    assert refit.main([*places, *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["against_shortest"]) == ["8"] and found["against_decay"] == {}
    by_steps = {(cell["seed"], cell["steps"]): cell["head"]["log_loss"] for cell in found["cells"]}
    apart = [by_steps[seed, 8] - by_steps[seed, 4] for seed in (1, 2)]
    assert found["against_shortest"]["8"]["head"]["log_loss"]["mean"] == pytest.approx(sum(apart) / 2)
