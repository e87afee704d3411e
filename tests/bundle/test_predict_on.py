"""A file answered on an executor is the file that one process writes, whatever becomes of workers and commands."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from bundles import BIAS, TEXTS, Bench

from cotune.bundle import Prediction, Predictor
from cotune.bundle.chunks import answer_chunk
from cotune.cli import main
from cotune.errors import InputError
from cotune.executor.parts import finished, part_folder_of


def predict(*arguments: object) -> int:
    try:
        main(["predict", *map(str, arguments)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.fixture(scope="module")
def bundle(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench.save(tmp_path_factory.mktemp("saved") / "best", decision=BIAS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows; one is blank, one too long."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    texts = [f"{TEXTS[number % len(TEXTS)]} {number}" for number in range(400)]
    texts[7], texts[30] = "", "How tall is the tower? " * 200
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    return path


@pytest.fixture(scope="module")
def usual(bundle: Path, rows: Path) -> bytes:
    """What the command writes without an executor."""
    out = rows.with_name("usual.csv")
    assert predict(bundle, rows, "--out", out, "--probabilities", "--batch", 4) == 0
    return out.read_bytes()


def kill_one_in_the_middle(folder: Path) -> threading.Thread:
    """Kill a worker once some chunks lie in a folder."""

    def kill() -> None:
        patience = time.monotonic() + 60
        while finished(folder) < 3 and time.monotonic() < patience:
            time.sleep(0.002)
        victim = multiprocessing.active_children()[0].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_processes_write_the_same_bytes_though_a_worker_is_killed(
    bundle: Path, rows: Path, usual: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.csv"
    killer = kill_one_in_the_middle(part_folder_of(out))
    options = ["--executor", "processes", "--workers", "2", "--json"]
    assert predict(bundle, rows, "--out", out, "--probabilities", "--batch", 4, *options) == 0
    killer.join()
    told = json.loads(capsys.readouterr().out)
    assert out.read_bytes() == usual
    assert told["lost_workers"] == 1 and told["workers"] and told["done_before"] == 0
    assert (told["rows"], told["answered"], told["truncated"], len(told["errors"])) == (400, 399, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]


def test_an_interrupted_command_goes_on_from_finished_chunks(
    bundle: Path,
    rows: Path,
    usual: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "answers.csv"
    whole, calls = Predictor.answers, [0]

    def interrupted(self: Predictor, part: Sequence[Mapping[str, str]], **options: Any) -> Iterator[Prediction]:
        calls[0] += 1
        if calls[0] == 11:
            raise KeyboardInterrupt
        return whole(self, part, **options)

    arguments = [bundle, rows, "--out", out, "--probabilities", "--batch", 4, "--executor", "local"]
    monkeypatch.setattr(Predictor, "answers", interrupted)
    assert predict(*arguments) == 130
    assert f"10 chunks kept in {out}.parts; the same command resumes." in capsys.readouterr().err
    assert not out.exists()
    assert predict(*arguments) == 0
    assert "40 rows done before" in capsys.readouterr().err
    assert out.read_bytes() == usual and calls[0] == 11 + 90
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]


def test_json_lines_and_other_bundles(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    for out in (tmp_path / "usual.jsonl", tmp_path / "on.jsonl"):
        more = ["--executor", "local"] if out.stem == "on" else []
        assert predict(bundle, rows, "--out", out, "--probabilities", *more) == 0
    assert (tmp_path / "on.jsonl").read_bytes() == (tmp_path / "usual.jsonl").read_bytes()
    engine = {"device": "cpu", "dtype": "float32", "threads": 1}
    given = {"bundle": "another", "rows": [{"text": "a"}], "probabilities": False, "unsure": None, "engine": engine}
    with pytest.raises(InputError, match="has a different bundle here"):
        answer_chunk(given, {"bundle": str(bundle), "base": None})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--executor", "local"], "an executor needs a file of rows and an output file"),
        (["--input", "a", "--executor", "local"], "an executor needs a file of rows and an output file"),
        (["ROWS", "--out", "a.csv", "--executor", "many"], "unknown executor 'many'"),
        (["ROWS", "--out", "a.csv", "--workers", "2"], "workers need an executor"),
        (["ROWS", "--out", "a.csv", "--executor", "local", "--unsure", "0.1"], "the bundle has no scores of held-out rows"),
    ],
)
def test_what_does_not_go_together_is_told_and_leaves_nothing(
    bundle: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(bundle, *(str(rows) if word == "ROWS" else word for word in arguments)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not [*tmp_path.iterdir()]
