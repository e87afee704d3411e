from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
generation = import_module("generation")


def made_data(folder: Path) -> Path:
    (folder / "snips").mkdir(parents=True)
    lines = []
    for i in range(20):
        slots = {"artist": "the band"} if i % 2 else {"city": "a city", "time": ["now", f"at {i}"]}
        output = json.dumps({"intent": "Play" if i % 2 else "Go", "slots": slots})
        lines.append(json.dumps({"input": f"{'play the card ' * (1 + i % 4)}{i}", "output": output}))
    (folder / "snips" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_one_object_with_both_ratios_and_the_same_answers(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", max_position_embeddings=1024)
    given = ["--data", str(made_data(tmp_path)), "--model", str(model), "--quick", "--repeats", "1", "--dtype", "float32"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert generation.main(given) == 0
    report = json.loads(out.getvalue())
    assert list(report)[: len(generation.KEYS)] == list(generation.KEYS)
    assert all(report[key] > 0 for key in generation.KEYS)
    assert report["same_answers"] == 1
    facts = report["details"][generation.KEYS[0]]
    assert facts["prefix"] == 100 and facts["rows"] == generation.QUICK.rows


def test_data_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "model", max_position_embeddings=1024)
    assert generation.main(["--data", str(tmp_path), "--model", str(model), "--quick", "--dtype", "float32"]) == 2
    assert "train.jsonl" in capsys.readouterr().err
