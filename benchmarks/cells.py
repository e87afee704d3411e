"""Cells of an experiment: the task that one has, the context that it is run in, and the file that finished ones are kept in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.evaluate.packing import pack_rows, unpack_rows
from cotune.evaluate.scoring import Evaluation
from cotune.evaluate.stats.paired import paired_interval
from cotune.files import atomic_path, content_hash
from cotune.model.local import LocalModel
from cotune.task.example import Example
from cotune.tune.settings import TuneSettings

RESULTS = "results.jsonl"

Floats = NDArray[np.float64]


def task_of(data: Path, name: str, rows: int, seed: int, test: int, dev: int | None = None) -> Task:
    """Labelled and test rows of a set, drawn by the seed; without ``dev`` as many labelled rows become dev as in a run."""
    settings = [f"data.test={data / name / 'test.jsonl'}", f"limit.train={rows}", f"limit.test={test}"]
    settings += [] if dev is None else [f"limit.dev={dev}"]
    source = str(data / name / "train.jsonl")
    return Task.from_config(config_from_data(source, input="input", output="output", overrides=settings, seed=seed))


def open_context(
    task: Task, model: LocalModel, journal: Path, out: Path, seed: int, settings: TuneSettings | None = None
) -> RunContext:
    """A run context without a budget's end; weights come to lie in ``out``."""
    costs = CostModel(Budget("tokens", 1e12), 1.0, 1.0)
    return RunContext(task, model, Journal(journal), costs, out, settings or TuneSettings(), seed, Quiet())


def read_results(out: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    """The finished cells; a torn last line is passed over."""
    path = out / name
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def add_result(out: Path, found: dict[str, Any], name: str = RESULTS) -> None:
    """Write a finished cell; a line that a kill tore before is taken away."""
    with atomic_path(out / name) as temporary:
        temporary.write_text("".join(json.dumps(cell) + "\n" for cell in (*read_results(out, name), found)), encoding="utf-8")


def by_row(rows: Sequence[Example], judged: Evaluation) -> dict[str, Any]:
    """What a cell keeps of each row, so that cells can be paired."""
    return {
        "row_ids": [content_hash(list(row.fields.values()), 8) for row in rows],
        "correct": pack_rows(judged.correct),
        "log_losses": [round(float(loss), 3) for loss in judged.log_losses],
    }


def paired(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Second minus first, cell by cell on the same rows, with 95% intervals; rows of several cells are resampled together."""
    ids = [row for cell in first for row in cell["row_ids"]]
    told: dict[str, Any] = {"n": len(ids)}
    for what, read in (("score", correct_of), ("log_loss", losses_of)):
        before, after = (np.concatenate([read(cell) for cell in side]) for side in (first, second))
        interval = paired_interval(before, after, seed=0, groups=ids)
        told[what] = round(float(np.mean(after - before)), 4)
        told[f"{what}_ci"] = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return told


def correct_of(cell: dict[str, Any]) -> Floats:
    """1 for each row that a cell got right."""
    return unpack_rows(cell["correct"]).astype(np.float64)


def losses_of(cell: dict[str, Any]) -> Floats:
    """Log-loss of each row of a cell, in nats."""
    return np.asarray(cell["log_losses"], dtype=np.float64)
