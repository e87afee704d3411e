"""Every way runs once, in equal steps, and a prefix that stands for text takes no more bytes than it has tokens for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_racing_benchmark import made_set

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import prefix


def test_all_ways_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_set(tmp_path / "data" / "trec6")
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(save_tiny(tmp_path / "model"))]
    sizes = ["--sets", "trec6", "--rows", "24", "--steps", "6", "--dev", "12", "--test", "10"]
    assert prefix.main([*places, *sizes, "--most", "2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 2
    assert prefix.main([*places, *sizes]) == 0
    found = json.loads(capsys.readouterr().out)
    cells = {cell["way"]: cell for cell in found["cells"]}
    assert set(cells) == {"untuned", *prefix.WAYS}
    for way, cell in cells.items():
        assert 0 <= cell["ci"][0] <= cell["score"] <= cell["ci"][1] <= 1
        assert [found["steps"] for found in cell["on_dev"]] == ([0] if way == "untuned" else [4, 6])
    assert cells["text16"]["bytes"] < cells["text"]["bytes"] < cells["lora"]["bytes"]
    assert cells["text"]["tokens_trained"] < cells["text16"]["tokens_trained"] < cells["lora"]["tokens_trained"]
    assert {told["way"] for told in found["against_lora"]} == set(cells) - {"lora"}
    for told in found["against_lora"]:
        assert told["n"] == 10 and told["score_ci"][0] <= told["score"] <= told["score_ci"][1]
        assert told["score"] == pytest.approx(cells[told["way"]]["score"] - cells["lora"]["score"], abs=1e-4)
        assert told["log_loss"] == pytest.approx(cells[told["way"]]["log_loss"] - cells["lora"]["log_loss"], abs=2e-3)
