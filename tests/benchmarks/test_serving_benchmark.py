"""The benchmark's own parts against a server in this process; starting the two servers that it compares takes too long here."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from cotune.bundle import load
from cotune.model.hardware.capability import check_capability
from tiny import save_tiny

for folder in ("benchmarks", "tests/bundle"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))
serving = import_module("serving")
running = import_module("servers").running


def test_a_round_brings_the_answers_of_predict(tmp_path: Path) -> None:
    (tmp_path / "trec6").mkdir()
    texts = [f"{'who wrote it ' * (1 + i % 3)}{i}" for i in range(12)]
    (tmp_path / "trec6" / "train.jsonl").write_text("\n".join(f'{{"input": "{text}"}}' for text in texts), encoding="utf-8")
    (tmp_path / "trec6" / "labels.json").write_text('{"labels": ["a", "b"]}', encoding="utf-8")
    model = save_tiny(tmp_path / "model")
    bundle = serving.made_bundle(tmp_path / "bundle", tmp_path, str(model), check_capability("cpu", "float32", 1))
    expected = load(bundle, device="cpu", dtype="float32", threads=1).predict(texts)
    with running([load(bundle, device="cpu", dtype="float32", threads=1)]) as client:
        done = serving.run_round(client.url, client.models[0], texts, 4)
        lost = serving.run_round(client.url, "another", texts[:2], 1)
    told = serving._told([done], expected)
    assert (told["failed"], told["other_than_predict"], told["answers"]) == (0, 0, 12) and told["requests_per_s"] > 0
    assert serving._told([done], ["none"] * 12)["other_than_predict"] == 12
    assert serving._told([lost], expected[:2])["failed"] == 2


def test_data_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.main(["--data", str(tmp_path), "--quick", "--dtype", "float32"]) == 2
    assert "trec6" in capsys.readouterr().err
