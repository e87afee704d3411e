"""Two versions learn from and are tested on the same rows, and their runs are set against each other row by row."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_racing_benchmark import made_set

import cotune
from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import versions


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files, and what two budgets make of them."""
    root = tmp_path_factory.mktemp("versions-benchmark")
    made_set(root / "data" / "trec6")
    rows = ["rows", "--data", str(root / "data"), "--sets", "trec6", "--train", "50", "--test", "16", "--out", str(root)]
    assert versions.main(rows) == 0
    model = str(save_tiny(root / "model", max_position_embeddings=1024))
    brief: dict[str, Any] = {"search": {"pool": 4, "max_cycles": 1}, "tune": {"max_epochs": 1}}
    brief |= {"evaluate": {"robustness": False, "slices": False}}
    for side, budget in (("before", "20ktok"), ("after", "30ktok")):
        for seed in (0, 1):
            task = root / f"trec6-{seed}.yaml"
            cotune.run(task, out=root / side / task.stem, model=model, budget=budget, seed=seed, **brief)
    return root


def test_rows_are_drawn_by_the_seed_alone(out: Path, tmp_path: Path) -> None:
    again = ["rows", "--data", str(out / "data"), "--sets", "trec6", "--train", "50", "--test", "16", "--out", str(tmp_path)]
    versions.main(again)
    texts = [[(folder / f"trec6-{seed}.train.jsonl").read_text() for seed in (0, 1)] for folder in (out, tmp_path)]
    assert texts[0] == texts[1] and texts[0][0] != texts[0][1]
    assert len(texts[0][0].splitlines()) == 50


def test_of_clinc_twenty_labels_stay_for_all_seeds_and_parts(tmp_path: Path) -> None:
    (tmp_path / "data" / "clinc150").mkdir(parents=True)
    rows = [json.dumps({"input": f"row {i}", "output": "oos" if i % 31 == 30 else f"label {i % 31}"}) for i in range(31 * 8)]
    for part in ("train", "test"):
        (tmp_path / "data" / "clinc150" / f"{part}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    versions.main(["rows", "--data", str(tmp_path / "data"), "--sets", "clinc150", "--out", str(tmp_path)])
    files = sorted(tmp_path.glob("clinc150-*.jsonl"))
    labels = [{json.loads(line)["output"] for line in path.read_text().splitlines()} for path in files]
    assert len(files) == 4 and all(found == labels[0] for found in labels)
    assert len(labels[0]) == 20 and "oos" not in labels[0]


def test_the_table_agrees_with_the_runs(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions.main(["table", "--out", str(out), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [line["task"] for line in found["tasks"]] == ["trec6-0", "trec6-1"]
    for line in found["tasks"]:
        for side in ("before", "after"):
            arm = json.loads((out / side / line["task"] / "summary.json").read_text())["arms"]["best_tuned"]
            assert line["compared"]["score"][side] == pytest.approx(arm["score"], abs=1e-4)
            assert line["compared"]["log_loss"][side] == pytest.approx(arm["log_loss"], abs=1e-3)
    pooled = found["pooled"]
    assert pooled["n"] == 32 and pooled["runs"] == 2
    mean = np.mean([line["compared"]["score"]["difference"] for line in found["tasks"]])
    assert pooled["score"]["difference"] == pytest.approx(mean, abs=1e-3)
    assert pooled["score"]["ci"][0] <= pooled["score"]["difference"] <= pooled["score"]["ci"][1]
    versions.main(["table", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| all | 32 |") and len(lines) == 5


def test_rows_are_paired_by_what_they_ask_and_not_by_their_order(out: Path) -> None:
    run = versions.read_run(out / "after" / "trec6-0", "best_tuned")
    turned = versions.Tested(run.rows[::-1], run.correct[::-1], run.losses[::-1], run.score, run.log_loss, run.seconds)
    found = versions.compare([run], [turned])
    assert found["log_loss"]["difference"] == 0 and found["score"]["difference"] == 0
    assert len(set(run.losses)) > 1
    other = versions.read_run(out / "after" / "trec6-1", "best_tuned")
    with pytest.raises(SystemExit, match="other test rows"):
        versions.compare([run], [other])


def test_what_is_not_finished_does_not_count(out: Path, tmp_path: Path) -> None:
    for side in ("before", "after"):
        shutil.copytree(out / side / "trec6-0", tmp_path / side / "trec6-0")
    shutil.copytree(out / "before" / "trec6-1", tmp_path / "before" / "trec6-1")
    assert [line["task"] for line in versions.table(tmp_path, "before", "after", "best_tuned")["tasks"]] == ["trec6-0"]
    with pytest.raises(SystemExit, match="no arm best"):
        versions.table(tmp_path, "before", "after", "best")
    (tmp_path / "after" / "trec6-0" / "summary.json").unlink()
    with pytest.raises(SystemExit, match="has been run to its end by both"):
        versions.table(tmp_path, "before", "after", "best_tuned")
