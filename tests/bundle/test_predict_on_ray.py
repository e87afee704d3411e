"""``cotune predict --executor ray`` writes what one process writes, also after its driver was killed.

Takes a package that the test suite does without: ``make test-cluster``.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import BIAS, TEXTS, Bench

import ray_nodes
from cotune.cli import main
from cotune.executor.parts import finished, part_folder_of

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes.nodes(2) as found:
        yield found


@pytest.fixture
def words(bench: Bench, tmp_path: Path) -> list[str]:
    """The command line without its output."""
    bundle, rows = bench.save(tmp_path / "best", decision=BIAS), tmp_path / "rows.csv"
    with rows.open("w", encoding="utf-8", newline="") as file:
        texts = ([number, f"{TEXTS[number % len(TEXTS)]} {number}"] for number in range(600))
        csv.writer(file).writerows([["id", "text"], *texts])
    return ["predict", str(bundle), str(rows), "--probabilities", "--batch", "4"]


def run(*words: object) -> int:
    try:
        main([*map(str, words)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.mark.parametrize("executor", ["ray", "processes"])
def test_a_killed_driver_and_the_same_command_again(
    cluster: Any, words: list[str], tmp_path: Path, executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--out", tmp_path / "usual.csv") == 0
    named = f"ray:{cluster.address}" if executor == "ray" else executor
    out = tmp_path / "answers.csv"
    command = [*words, "--out", str(out), "--executor", named, "--workers", "2", "--json"]
    for moment in (1, 30, 60):
        with subprocess.Popen([sys.executable, "-m", "cotune.cli", *command], env=os.environ) as driver:
            patience = time.monotonic() + 120
            while finished(part_folder_of(out)) < moment and driver.poll() is None and time.monotonic() < patience:
                time.sleep(0.002)
            driver.send_signal(signal.SIGKILL)
        assert not out.exists()
    capsys.readouterr()
    assert run(*command) == 0
    told = json.loads(capsys.readouterr().out)
    assert out.read_bytes() == (tmp_path / "usual.csv").read_bytes()
    assert told["done_before"] >= 60 * 4 and told["lost_workers"] == 0
    assert sorted(path.name for path in tmp_path.glob("answers*")) == ["answers.csv"]
