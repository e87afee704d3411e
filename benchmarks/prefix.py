"""LoRA against trained prefixes at equal steps: the seed prompt tuned by each, on the same rows in the same order.

    python benchmarks/prefix.py --data FOLDER --out FOLDER [--sets trec6 banking77] [--rows 64 300] [--seeds 0]
        [--steps 60] [--dev 100] [--test 200] [--ways ...] [--most N]

The ways:

    lora        LoRA weights
    text        the keys and values of all the tokens that the prompt begins with
    text16      those of its first 16 tokens, a chat template's own; what comes after them is run as text
    random      16 random words before the prompt
    untuned     the base model

A way's learning rate falls over the last 30% of its steps. Dev decides between the weights before and after that, and on the
decision rule; the test is opened once a cell. Every finished cell is a line of OUT/results.jsonl, and none is run twice. Prints
one JSON object with all cells so far and each way's paired difference to LoRA, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import add_result, by_row, open_context, paired, read_results, task_of
from cotune.cycle.answer_search.trial import advance, decay_steps, finish, measure, open_trial
from cotune.cycle.search.measured import Measured
from cotune.evaluate.stats.intervals import wilson
from cotune.model.adapters.slots import BASE
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.task.task import Task
from cotune.tune.settings import PrefixSettings, TuneSettings
from measure import machine_facts, say

RATE = 0.03
_CELL = ("set", "rows", "seed", "way", "rate", "steps", "dev", "test")
WAYS: dict[str, TuneSettings] = {
    "lora": TuneSettings(),
    "text": TuneSettings(method="prefix", learning_rate=RATE),
    "text16": TuneSettings(method="prefix", learning_rate=RATE, prefix=PrefixSettings(tokens=16)),
    "random": TuneSettings(method="prefix", learning_rate=RATE, prefix=PrefixSettings("random", 16)),
}


def main(arguments: Sequence[str] | None = None, model: LocalModel | None = None) -> int:
    """Run the cells that are missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the classification sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=["trec6", "banking77"])
    parser.add_argument("--rows", nargs="+", type=int, default=[64, 300], help="rows to learn from")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", default=["untuned", *WAYS], choices=["untuned", *WAYS])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--dev", type=int, default=100)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--rate", type=float, help="learning rate of all ways, to choose one on dev")
    parser.add_argument("--most", type=int, default=10_000, help="cells in this call")
    given = parser.parse_args(arguments)
    local = model or open_model(given.model)
    left = given.most
    for cell in _cells(given):
        if left and not any(cell.items() <= found.items() for found in read_results(given.out)):
            left -= 1
            say(f"{cell} ...")
            task = _task(given.data, cell)
            add_result(given.out, cell | run_cell(local, task, cell, given.out))
    cells = read_results(given.out)
    print(json.dumps({"against_lora": against_lora(cells), "cells": cells, "machine": machine_facts(local)}, indent=1))
    return 0


def against_lora(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each way against LoRA on the same test rows, pooled over seeds; rows that several seeds drew are resampled together."""
    found = []
    known = {json.dumps({key: c[key] for key in _CELL}): c for c in cells if "row_ids" in c}
    for name, rows, way in dict.fromkeys((c["set"], c["rows"], c["way"]) for c in known.values() if c["way"] != "lora"):
        mine = [c for c in known.values() if (c["set"], c["rows"], c["way"]) == (name, rows, way)]
        others = [known.get(json.dumps({key: c[key] for key in _CELL} | {"way": "lora"})) for c in mine]
        pairs = [(other, c) for other, c in zip(others, mine, strict=True) if other is not None]
        if not pairs:
            continue
        seeds = [c["seed"] for _, c in pairs]
        found.append({"set": name, "rows": rows, "way": way, "seeds": seeds, **paired(*zip(*pairs, strict=True))})
    return found


def _cells(given: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"set": name, "rows": rows, "seed": seed, "way": way, "rate": given.rate}
        | {key: getattr(given, key) for key in ("steps", "dev", "test")}
        for name in given.sets
        for rows in given.rows
        for seed in given.seeds
        for way in given.ways
    ]


def _task(data: Path, cell: dict[str, Any]) -> Task:
    task = task_of(data, cell["set"], cell["rows"] + cell["dev"], cell["seed"], cell["test"])
    return replace(task, train=(*task.train, *task.dev)[: cell["rows"]], dev=(*task.train, *task.dev)[cell["rows"] :])


def run_cell(model: LocalModel, task: Task, cell: dict[str, Any], out: Path) -> dict[str, Any]:
    """Tune as the cell says, decide on dev, open the test once."""
    started = time.monotonic()
    settings = WAYS.get(cell["way"], TuneSettings())
    if cell["rate"] is not None:
        settings = replace(settings, learning_rate=cell["rate"])
    folder = out / "work" / "-".join(str(cell[name]) for name in ("set", "rows", "seed", "way", "rate", "steps"))
    folder.mkdir(parents=True, exist_ok=True)
    context = open_context(task, model, folder, folder, cell["seed"], settings)
    prompt = seed_prompt(task)
    found: list[Measured] = []
    if cell["way"] == "untuned":
        found.append(measure(context, prompt, BASE, 0, "base"))
    else:
        trial = open_trial(context, prompt)
        steady = cell["steps"]
        while steady + decay_steps(steady, settings.decay) > cell["steps"]:
            steady -= 1
        if not advance(context, trial, steady, cycle=1) or not finish(context, trial, cycle=1):
            return {"failed": "training diverged"}
        found = trial.measured
    chosen = max(found, key=lambda m: m.rank)
    candidate = chosen.candidate
    rows = task.test.open({"arm": candidate.id}).examples_for(candidate.id)
    judged = context.answers.judge(context.answers.scores(prompt, candidate.adapter, rows, "test"), rows, candidate.decision)
    weights = context.folder / "adapters" / candidate.adapter / "adapter_model.safetensors"
    interval = wilson(int(judged.correct.sum()), len(rows))
    return {
        "on_dev": [{"steps": m.candidate.steps, "score": m.evaluation.score, "log_loss": m.evaluation.log_loss} for m in found],
        "chosen_steps": candidate.steps,
        "decision": candidate.decision.kind,
        **by_row(rows, judged),
        "score": judged.score,
        "ci": [interval.low, interval.high],
        "log_loss": judged.log_loss,
        "tokens_trained": context.spending.account.counts["tokens_trained"],
        "bytes": 0 if candidate.adapter == BASE else weights.stat().st_size,
        "seconds": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
