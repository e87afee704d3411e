from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

probes = import_module("probes")


def test_every_key_is_there_with_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert probes.main(["--quick", "--repeats", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found)[:2] == list(probes.SIZES) and found["quick"] is True and found["machine"]["threads"] >= 1
    for key, size in probes.SIZES.items():
        facts = found[key]
        assert len(facts["runs"]) == 2 and facts["seconds"] > 0 and facts["wanted"] == size.wanted
        assert facts["off"] < 0.01 and 0 < facts["accuracy"] <= 1


def test_only_one_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert probes.main(["--quick", "--repeats", "1", "--only", "many_labels"]) == 0
    assert "race_500" not in json.loads(capsys.readouterr().out)
