"""The benchmark of windows runs every way once, and no cell twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import window
from cells import read_results

LABELS = ("person", "place", "number")
WORDS = ("who", "where", "many")


def test_every_way_runs_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "trec6").mkdir(parents=True)
    rows = [{"input": f"{WORDS[i % 3]} is {i} {WORDS[i % 3]}?", "output": LABELS[i % 3]} for i in range(80)]
    train = tmp_path / "data" / "trec6" / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ways = ["frozen", "default", "deep", "epochs2", "words"]
    given = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(save_tiny(tmp_path / "model"))]
    given += ["--sets", "trec6", "--rows", "30", "--draws", "1", "--held-out", "24", "--ways", *ways]
    assert window.main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["means"]) == {f"trec6/30/{way}" for way in ways}
    for way in ("default", "deep"):
        assert set(told["means"][f"trec6/30/{way}"]) == {"draws", "seconds", "head", "refit", "mean"}
    before = read_results(tmp_path / "out")
    assert window.main(given) == 0
    assert read_results(tmp_path / "out") == before
