"""Every way labels as many rows, no cell is run twice, and differences are paired by set and draw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import labelling


def made_states(rows: int, seed: int = 0) -> labelling.Set:
    """Two layers; in the second one labels lie apart."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % 3)
    noise = rng.normal(size=(2, rows, 12))
    noise[1, :, :3] += 2.0 * np.eye(3)[labels]
    return labelling.Set((4, 8), noise.astype(np.float16), labels.astype(np.int64), 3)


def made_set(folder: Path) -> None:
    """Write a set of three labels, each named by a word in its rows."""
    folder.mkdir(parents=True)
    words = {"person": "who", "place": "where", "number": "many"}
    for part, count in (("train", 60), ("test", 20)):
        named = [(i, *list(words.items())[i % 3]) for i in range(count)]
        rows = [{"input": f"{word} {part[:2]} {i} {word}?", "output": label} for i, label, word in named]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_cells_run_once_and_tell_curves_differences_and_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "SIZES", (24, 36, 48))
    monkeypatch.setattr(labelling, "START", 24)
    monkeypatch.setattr(labelling, "TOLD", (24, 36, 48, 48, 48, 48))
    ran: list[str] = []

    def embedded(*given: Any) -> labelling.Set:
        ran.append(given[1])
        return made_states(700)

    monkeypatch.setattr(labelling, "embedded", embedded)
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--sets", "one", "--draws", "2", "--held-out", "100"]
    arguments += ["--ways", "random", "margin"]
    assert labelling.main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    first = (tmp_path / "out" / "results.jsonl").read_text()
    assert labelling.main(arguments) == 0
    assert (tmp_path / "out" / "results.jsonl").read_text() == first and ran == ["one", "one"]
    assert json.loads(capsys.readouterr().out) == told
    cells = [json.loads(line) for line in first.splitlines()]
    curves = [cell for cell in cells if cell["part"] == "labels"]
    assert [(cell["draw"], cell["way"]) for cell in curves] == [(d, w) for d in (0, 1) for w in ("random", "margin")]
    # All ways begin with the same rows.
    assert curves[0]["at"]["24"] == curves[1]["at"]["24"] and curves[0]["layer"] == 8
    gaps = [
        np.mean([curves[i + 1]["at"][s]["accuracy"] - curves[i]["at"][s]["accuracy"] for s in ("36", "48", "48")])
        for i in (0, 2)
    ]
    assert told["against_random"]["margin"]["few"]["pooled"]["accuracy"] == pytest.approx(np.mean(gaps), abs=1e-4)
    covered = told["coverage"]["one"]["500"]["cross"]
    assert 0.9 <= covered["covered"] <= 1 and covered["by_label"].keys() == {"0", "1", "2"}


def test_real_rows_are_embedded_once(tmp_path: Path) -> None:
    from tiny import save_tiny

    made_set(tmp_path / "data" / "trec6")
    model = str(save_tiny(tmp_path / "model"))
    found = labelling.embedded(tmp_path / "data", "trec6", 40, tmp_path, model)
    assert found.states.shape[:2] == (len(found.layers), len(found.labels)) and found.classes == len(set(found.labels.tolist()))
    assert (labelling.embedded(tmp_path / "nowhere", "trec6", 40, tmp_path, "none").states == found.states).all()
