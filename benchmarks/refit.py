"""How the seed prompt is best trained: the learning rate, the batch, what the decay runs on, and how many steps.

    python benchmarks/refit.py --data FOLDER --out FOLDER [--set trec6] [--rows 500] [--held-out 500] [--seeds 1 2 3 4 5 6]
        [--steps 81 ...] [--ways decay refit rate2 batch16]

All rows are drawn from the train file; the test file is not opened. 70% of the labelled rows are trained on, the rest stand for
dev, and the held-out rows judge. The ways:

    decay     as a run trains: batches of 8, the learning rate falls to zero over the last 30% of the steps
    refit     as decay, but the last 30% runs on train and dev together (``refit: true``)
    rate2     twice the learning rate
    batch16   half the steps, twice the batch

Each is judged by the labels' words, raw and with a bias, and by a head, which is a regression on the last state of the rows
that it was trained on. Every finished cell is a line of OUT/results.jsonl, and none is run twice. Prints one JSON object with
the cells; for each way the mean paired difference to ``decay`` over seeds; and for each number of steps that of ``decay`` to
its smallest number. Progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from cells import add_result, read_results
from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.answer_search.trial import decay_steps
from cotune.cycle.answering.base import LabelAnswering, rules_of
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.probe_search.fits import head_of
from cotune.evaluate.decision import BY_PROBE
from cotune.evaluate.responses import ModelOutputs, label_indices
from cotune.files import write_text
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.tune.batches import TrainingRow
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun
from measure import machine_facts, say

PLAIN = TuneSettings()
STRENGTH = 0.1
"""Inverse of the penalty on a head's weights."""
WAYS: dict[str, TuneSettings] = {
    "decay": PLAIN,
    "refit": PLAIN,
    "rate2": replace(PLAIN, learning_rate=2 * PLAIN.learning_rate),
    "batch16": replace(PLAIN, batch_size=2 * PLAIN.batch_size),
}


def main(arguments: Sequence[str] | None = None, model: LocalModel | None = None) -> int:
    """Run the cells that are missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the classification sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--set", default="trec6")
    parser.add_argument("--rows", type=int, default=500, help="labelled rows")
    parser.add_argument("--held-out", type=int, default=500, help="further train rows that judge")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--steps", nargs="+", type=int, default=[81], help="of a batch of 8")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args(arguments)
    local = model or open_model(given.model)
    for seed, steps, way in product(given.seeds, given.steps, given.ways):
        cell = {"set": given.set, "rows": given.rows, "held_out": given.held_out, "steps": steps, "seed": seed, "way": way}
        if not any(cell.items() <= found.items() for found in read_results(given.out)):
            say(f"{cell} ...")
            task = _task(given.data / given.set / "train.jsonl", given, seed)
            add_result(given.out, cell | run_cell(local, task, way, steps, seed, given.out))
    cells = read_results(given.out)
    told = {"against_decay": against_decay(cells), "against_shortest": against_shortest(cells)}
    print(json.dumps({**told, "cells": cells, "machine": machine_facts(local)}, indent=1))
    return 0


def run_cell(model: LocalModel, task: Task, way: str, steps: int, seed: int, out: Path) -> dict[str, Any]:
    """Train as the way says, and judge on the held-out rows under either decision rule."""
    settings, prompt, answering = WAYS[way], seed_prompt(task), answering_for(task, model)
    assert isinstance(answering, LabelAnswering)
    rows = answering.training_rows(prompt, task.train)
    train = rows[: round(0.7 * len(rows))]
    end = steps * PLAIN.batch_size // settings.batch_size
    adapter = _trained(model, way, rows, train, settings, end, seed, out)
    given = answering.score(prompt, adapter, task.dev, lambda tokens: None).given
    judged = {rule.kind: given.judge(task.dev, rule, task) for rule in rules_of(answering, given, task)}
    learnt = len(rows if way == "refit" else train)
    judged["head"] = _by_head(model, answering, task, prompt, adapter, learnt, out).judge(task.dev, BY_PROBE, task)
    return {kind: {"score": found.score, "log_loss": found.log_loss} for kind, found in judged.items()}


def _trained(
    model: LocalModel,
    way: str,
    rows: Sequence[TrainingRow],
    train: Sequence[TrainingRow],
    settings: TuneSettings,
    end: int,
    seed: int,
    out: Path,
) -> str:
    """Train for ``end`` steps; returns the adapter, which is registered."""
    slot, folder = model.adapters, out / "adapters"

    def saved(run: TuningRun) -> str:
        adapter = run.save(folder)
        slot.register(folder / adapter)
        return adapter

    run = _run(model, train, settings, seed, out)
    steady = end
    while steady + decay_steps(steady, settings.decay) > end:
        steady -= 1
    run.advance(steady)
    if way == "refit":
        run = _run(model, rows, settings, seed, out, start=saved(run))
        run.advance(end - steady, decay_from=0, branch="refit")
    else:
        run.advance(end, decay_from=steady, branch="decay")
    return saved(run)


def _by_head(
    model: LocalModel, answering: LabelAnswering, task: Task, prompt: Prompt, adapter: str, count: int, out: Path
) -> ModelOutputs:
    """What a head on the states of the first ``count`` train rows says of dev."""
    rows = task.train[:count]
    ids = [row.prompt_ids for row in answering.render(prompt, rows)]
    states = model.layer_states(ids, [model.depth], adapter=adapter)[0]
    head = head_of(states, label_indices(rows, task), len(task.labels), STRENGTH)
    probe = Probe(task.labels, *head.folded(), model.depth)
    headed = model.adapters.add_probe(adapter, probe, out / "adapters")
    model.adapters.register(out / "adapters" / headed)
    return answering.score(prompt, headed, task.dev, lambda tokens: None).given


def against_decay(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean difference of each way to ``decay`` over seeds, its standard error, and how many seeds there are, by rule."""
    found = {}
    for way in WAYS:
        mine = {_name(c): c for c in cells if c["way"] == way != "decay"}
        others = {_name(c): c for c in cells if c["way"] == "decay"}
        found[way] = _differences([(mine[name], others[name]) for name in mine if name in others])
    return {way: told for way, told in found.items() if told}


def against_shortest(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same of ``decay`` with more steps to itself with the fewest, by the number of steps."""
    plain = [c for c in cells if c["way"] == "decay"]
    lengths = sorted({c["steps"] for c in plain})
    found = {}
    for steps in lengths[1:]:
        first = {_name(c)[:-1]: c for c in plain if c["steps"] == lengths[0]}
        found[str(steps)] = _differences(
            [(c, first[_name(c)[:-1]]) for c in plain if c["steps"] == steps and _name(c)[:-1] in first]
        )
    return found


def _name(cell: dict[str, Any]) -> tuple[Any, ...]:
    return cell["set"], cell["rows"], cell["seed"], cell["steps"]


def _differences(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, what in product(("raw", "bias", "head"), ("score", "log_loss")):
        differences = [mine[kind][what] - other[kind][what] for mine, other in pairs if kind in mine and kind in other]
        if len(differences) > 1:
            error = float(np.std(differences, ddof=1) / len(differences) ** 0.5)
            entry = {"mean": float(np.mean(differences)), "standard_error": error, "seeds": len(differences)}
            found.setdefault(kind, {})[what] = entry
    return found


def _run(
    model: LocalModel, rows: Sequence[TrainingRow], settings: TuneSettings, seed: int, out: Path, start: str = "base"
) -> TuningRun:
    return TuningRun(model, rows, settings, seed=seed, folder=out / "checkpoints", start=start)


def _task(path: Path, given: argparse.Namespace, seed: int) -> Task:
    """Labelled rows as train, held-out ones as dev, drawn by the seed."""
    lines = path.read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng([seed, 77]).permutation(len(lines))
    spare = given.rows + given.held_out
    # A task needs a test split, which would else be cut from the labelled rows; nothing here reads it.
    parts = {"labelled": order[: given.rows], "held_out": order[given.rows : spare], "unread": order[spare : spare + 20]}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, picked in parts.items():
        write_text(given.out / f"{name}.jsonl", "\n".join(lines[i] for i in picked) + "\n")
    settings = [f"data.dev={given.out / 'held_out.jsonl'}", f"limit.dev={given.held_out}"]
    settings += [f"data.test={given.out / 'unread.jsonl'}"]
    # A label that few labelled rows leave out is one all the same.
    settings += [f"output.labels={json.dumps(sorted({str(json.loads(line)['output']) for line in lines}))}"]
    source = str(given.out / "labelled.jsonl")
    return Task.from_config(config_from_data(source, input="input", output="output", overrides=settings, seed=0))


if __name__ == "__main__":
    sys.exit(main())
