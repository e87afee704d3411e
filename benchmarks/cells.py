"""Cells of an experiment: the task that one has, and the file that finished ones are kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.files import atomic_path

RESULTS = "results.jsonl"


def task_of(data: Path, name: str, rows: int, seed: int, test: int, dev: int | None = None) -> Task:
    """Labelled and test rows of a set, drawn by the seed; without ``dev`` as many labelled rows become dev as in a run."""
    settings = [f"data.test={data / name / 'test.jsonl'}", f"limit.train={rows}", f"limit.test={test}"]
    settings += [] if dev is None else [f"limit.dev={dev}"]
    source = str(data / name / "train.jsonl")
    return Task.from_config(config_from_data(source, input="input", output="output", overrides=settings, seed=seed))


def read_results(out: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    """The finished cells; a torn last line is passed over."""
    path = out / name
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def add_result(out: Path, found: dict[str, Any], name: str = RESULTS) -> None:
    """Write a finished cell; a line that a kill tore before is taken away."""
    with atomic_path(out / name) as temporary:
        temporary.write_text("".join(json.dumps(cell) + "\n" for cell in (*read_results(out, name), found)), encoding="utf-8")
