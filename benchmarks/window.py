"""How the window below a probe is best tuned: depth, learning rate, batch, epochs, smoothing, read-out; against words.

    python benchmarks/window.py --data FOLDER --out FOLDER [--sets trec6 sms_spam] [--rows 64 500] [--draws 3] [--held-out 400]
        [--ways default frozen rate5e-4 ...]

Rows are drawn from each set's train file; the test file is not opened. Of each draw some rows are labelled and the held-out
rows judge. The prompt is the seed prompt. The ways:

    frozen        the probe on the model as it is, after the layer that cross-fitting on the labelled rows chooses
    default       LoRA on a third of the depth, up to the layer that a run would read
    layerN        up to layer N
    rate5e-4      half the learning rate
    batch32       twice the batch
    sharp         no label smoothing
    cross-entropy no contrastive term
    contrast0.6   less of it; contrast0.6-0.2 with a warmer softmax as well
    warmer        its softmax at 0.2 instead of 0.1; cooler at 0.05
    alone         rows of a step in any order, even where labels outnumber them; otherwise they come in pairs of a label then
    deep          a window from the first layer on
    epochsN       each labelled row is met N times
    words         LoRA on all layers by the labels' words, the learning rate falling over the last 30%, read with a bias

Every finished cell is a line of OUT/results.jsonl, and none is run twice. A cell holds accuracy and log-loss of each read-out
(``head``, ``refit``, ``mean``; ``words``), raw and at the best temperature, seconds of tuning and optimizer steps. Prints one
JSON object: the cells, and by set, rows and way the mean over draws. Progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cells import add_result, read_results
from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.probe_search.fits import tuned_layer
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.evaluate.decision import fit_bias, label_frequencies
from cotune.evaluate.responses import label_indices
from cotune.model.engine.state_store import layers_of_interest
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.probe.cross_fitting import best_temperature, cross_fit, standardised, tempered
from cotune.probe.logistic import fit_logistic
from cotune.prompt.bank import seed_prompt
from cotune.tune.batches import training_rows
from cotune.tune.settings import TuneSettings, WindowSettings
from cotune.tune.trainer import TuningRun
from cotune.tune.window import StartHead, WindowRun, WindowStates
from measure import machine_facts, say

Floats = NDArray[np.float64]

DEFAULT = WindowSettings(smoothing=0.1, contrast=HEURISTICS.contrast, contrast_temperature=HEURISTICS.contrast_temperature)
WAYS: dict[str, WindowSettings] = {
    "frozen": DEFAULT,
    "default": DEFAULT,
    **{f"layer{number}": DEFAULT for number in (16, 20, 22, 24, 26, 28, 30)},
    "rate5e-4": replace(DEFAULT, learning_rate=5e-4),
    "batch32": replace(DEFAULT, batch_size=32),
    "sharp": replace(DEFAULT, smoothing=0.0),
    "cross-entropy": replace(DEFAULT, contrast=0.0),
    "contrast0.6": replace(DEFAULT, contrast=0.6),
    "contrast0.6-0.2": replace(DEFAULT, contrast=0.6, contrast_temperature=0.2),
    "warmer": replace(DEFAULT, contrast_temperature=0.2),
    "cooler": replace(DEFAULT, contrast_temperature=0.05),
    "alone": DEFAULT,
    "deep": DEFAULT,
    "epochs2": DEFAULT,
    "epochs4": DEFAULT,
    "epochs8": DEFAULT,
    "words": DEFAULT,
}


def main(arguments: Sequence[str] | None = None, model: LocalModel | None = None) -> int:
    """Run the cells that are missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the classification sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=["trec6", "sms_spam"])
    parser.add_argument("--rows", nargs="+", type=int, default=[64, 500], help="labelled rows")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=400, help="further train rows that judge")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args(arguments)
    local = model or open_model(given.model)
    for name, rows, draw, way in product(given.sets, given.rows, range(given.draws), given.ways):
        cell = {"set": name, "rows": rows, "draw": draw, "way": way, "held_out": given.held_out}
        if not any(cell.items() <= found.items() for found in read_results(given.out)):
            say(f"{cell} ...")
            task = task_of(given.data / name / "train.jsonl", rows, draw, given.held_out)
            add_result(given.out, cell | run_cell(local, task, way, draw))
    cells = read_results(given.out)
    print(json.dumps({"means": means(cells), "cells": cells, "machine": machine_facts(local)}, indent=1))
    return 0


def task_of(train: Path, rows: int, draw: int, held_out: int) -> Task:
    """Labelled rows as train and dev together, and held-out rows as its test; all of the train file."""
    settings = [f"limit.train={rows}", f"limit.test={held_out}"]
    return Task.from_config(config_from_data(str(train), input="input", output="output", overrides=settings, seed=draw))


def run_cell(model: LocalModel, task: Task, way: str, draw: int) -> dict[str, Any]:
    """Tune as the way says, and judge every read-out on the held-out rows."""
    prompt, labelled = seed_prompt(task), (*task.train, *task.dev)
    held = task.test.open({"benchmark": "benchmark"}).examples_for("benchmark")
    gold, truth, classes = label_indices(labelled, task), label_indices(held, task), len(task.labels)
    if way == "words":
        return words_cell(model, task, draw)
    rendered = model.renderer.render(prompt, [row.fields for row in (*labelled, *held)], task.labels)
    ids, starts, count = [row.prompt_ids for row in rendered], [row.start for row in rendered], len(labelled)
    layers = layers_of_interest(model.depth)
    states = model.layer_states(ids, layers, reads=starts)
    found = cross_fit(states[:, :count], gold, classes=classes, layers=layers, seed=draw)
    layer, strength = found.layer if way == "frozen" else tuned_layer(found, labelled, layers), found.best.strength
    if way.startswith("layer"):
        layer = int(way[5:])
    place, about = layers.index(layer), {"layer": layer, "strength": strength}
    if way == "frozen":
        head = head_of(states[place, :count], gold, classes, strength)
        return about | {"refit": judged(log_probs(head, states[place, count:]), truth), "seconds": 0.0, "steps": 0}
    settings = WAYS[way]
    settings = replace(settings, pairs=way != "alone" and classes > settings.batch_size)
    if way == "default":
        factor = HEURISTICS.rate_factor(count, pairs=settings.pairs)
        settings = replace(settings, learning_rate=factor * settings.learning_rate)
    epochs = float(way[6:]) if way.startswith("epochs") else HEURISTICS.epochs(count, 8)
    first = 0 if way == "deep" else max(0, layer - round(HEURISTICS.window_share * model.depth))
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        run = WindowRun(
            model,
            WindowStates(model, ids[:count], first, reads=starts[:count]),
            range(count),
            gold.tolist(),
            layer,
            head_of(states[place, :count], gold, classes, HEURISTICS.head_strength * strength),
            settings,
            steps=max(1, round(epochs * count / min(settings.batch_size, count))),
            seed=draw,
            folder=Path(folder),
        )
        run.advance()
        seconds = time.monotonic() - started
        tuned = model.layer_states(ids, [layer], reads=starts, adapter=run.save(Path(folder)))[0]
    tables = {"head": log_probs(run.head(), tuned[count:])}
    tables["refit"] = log_probs(head_of(tuned[:count], gold, classes, HEURISTICS.refit_strength * strength), tuned[count:])
    tables["mean"] = (tables["head"] + tables["refit"]) / 2
    told = {name: judged(table, truth) for name, table in tables.items()}
    return about | told | {"seconds": round(seconds, 1), "steps": run.step}


def words_cell(model: LocalModel, task: Task, draw: int) -> dict[str, Any]:
    """LoRA on all layers by the labels' words."""
    prompt, labelled = seed_prompt(task), (*task.train, *task.dev)
    held = task.test.open({"benchmark": "benchmark"}).examples_for("benchmark")
    gold, truth = label_indices(labelled, task), label_indices(held, task)
    rendered = model.renderer.render(prompt, [row.fields for row in labelled], task.labels)
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        run = TuningRun(model, training_rows(rendered, gold.tolist()), TuneSettings(), seed=draw, folder=Path(folder))
        steps = max(4, round(HEURISTICS.epochs(len(labelled), 8) * run.steps_per_epoch))
        run.advance(steps, decay_from=round(0.7 * steps))
        seconds = time.monotonic() - started
        adapter = run.save(Path(folder))
        asked = [model.score(prompt, [r.fields for r in rows], task.labels, adapter=adapter) for rows in (labelled, held)]
    rule = fit_bias(asked[0].log_probs, label_frequencies(gold.tolist(), len(task.labels)))
    told = judged(rule.log_probs(asked[1].log_probs), truth)
    return {"words": told, "seconds": round(seconds, 1), "steps": run.step}


def head_of(states: NDArray[np.float32], gold: NDArray[np.int64], classes: int, strength: float) -> StartHead:
    """The probe of labelled states."""
    features, mean, spread = standardised(states)
    fitted = fit_logistic(features, gold, classes, strengths=[strength])
    return StartHead(fitted.weight[0], fitted.bias[0], mean, spread)


def log_probs(head: StartHead, states: NDArray[np.float32]) -> Floats:
    """``[rows, labels]`` of a head."""
    weight, bias = head.folded()
    return tempered(states.astype(np.float64) @ weight.T + bias, 1.0)


def judged(table: Floats, truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, and log-loss raw and at the best temperature."""
    rows = np.arange(len(truth))
    best = tempered(table, best_temperature(table, truth))
    return {
        "accuracy": round(float((table.argmax(axis=1) == truth).mean()), 4),
        "log_loss": round(float(-table[rows, truth].mean()), 4),
        "tempered_log_loss": round(float(-best[rows, truth].mean()), 4),
    }


def means(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By set, rows and way: each read-out's mean over draws, and the draws."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys((cell["set"], cell["rows"], cell["way"]) for cell in cells):
        group = [cell for cell in cells if (cell["set"], cell["rows"], cell["way"]) == key]
        told: dict[str, Any] = {"draws": len(group), "seconds": round(float(np.mean([c["seconds"] for c in group])), 1)}
        for readout in ("head", "refit", "mean", "words"):
            if all(readout in cell for cell in group):
                told[readout] = {
                    name: round(float(np.mean([cell[readout][name] for cell in group])), 4) for name in group[0][readout]
                }
        found["/".join(map(str, key))] = told
    return found


if __name__ == "__main__":
    sys.exit(main())
