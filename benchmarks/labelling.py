"""Which rows to label: accuracy against labelled rows, picked in several ways, on hidden states of the model as it is.

    python benchmarks/labelling.py --data FOLDER --out FOLDER [--sets trec6 ...] [--draws 5] [--rows 1700] [--held-out 500]

All rows are drawn from the train file: the held-out ones judge, the others are the pool; no test row is judged. Rows are
embedded once under the seed prompt, as a run and ``cotune label`` do: the state at the last prompt token beside the mean over
the row's own tokens, after each layer of interest. These states are kept in OUT. Each draw begins with 64 random labelled rows,
chooses a layer on these by cross-fitting, and goes on to 500 in batches; before each batch a probe is fitted to what is
labelled, its penalty chosen by cross-fitting, and what it says of the pool decides what is labelled next. The ways are those of
``cotune.labelling.acquisition``.

A second part, ``coverage``, takes random labelled rows, and counts how often sets of ``cotune.evaluate.stats.conformal`` for
a share of 0.05 hold the right label of held-out rows: with scores of cross-fitted probes (``cross``) and with those of a probe
that was fitted to 70% of the rows on the others (``split``); sets are of the probe that was fitted to all, as in a bundle.

Every finished cell is a line of OUT/results.jsonl, and none is run twice. Prints one JSON object: ``curve`` (mean accuracy and
log-loss by set, way and number of labels), ``against_random`` (differences, paired by set and draw, pooled over 64 < labels <=
200, and above), ``coverage`` by set and rows, and ``machine``. Progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cells import add_result, read_results, task_of
from cotune.cycle.answering.factory import answering_for
from cotune.evaluate.responses import label_indices
from cotune.evaluate.stats.conformal import conformal_scores, coverage, label_sets, threshold
from cotune.files import atomic_path
from cotune.labelling.acquisition import ACQUISITIONS, Pool
from cotune.model.engine.state_store import layers_of_interest
from cotune.model.hardware.machine import processor_name
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.probe import cross_fit, fit_logistic
from cotune.probe.cross_fitting import standardised, tempered
from cotune.prompt.bank import seed_prompt
from measure import say

SETS = ("trec6", "sms_spam", "banking77")
START = 64
SIZES = (64, 100, 150, 200, 250, 300, 400, 500)
TOLD = (64, 100, 150, 200, 300, 500)
SHARE = 0.05
# A strength is chosen again for every probe, among those that have won somewhere on such states.
_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Set:
    """A set's rows: ``[layers, rows, 2 x width]`` states, and the number of each row's label."""

    layers: tuple[int, ...]
    states: NDArray[np.float16]
    labels: NDArray[np.int64]
    classes: int


def embedded(data: Path, name: str, rows: int, out: Path, model: str) -> Set:
    """States of a set's rows, from the folder where they are there already."""
    from safetensors.numpy import load_file, save

    path = out / f"{name}.safetensors"
    if not path.is_file():
        say(f"{name}: embedding {rows} rows ...")
        found = _embed(data, name, rows, open_model(model))
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(found))
    stored = load_file(path)
    return Set(tuple(stored["layers"].tolist()), stored["states"], stored["labels"], int(stored["classes"][0]))


def _embed(data: Path, name: str, rows: int, local: LocalModel) -> dict[str, Any]:
    task = task_of(data, name, rows, 0, 20, 1)
    everyone = (*task.train, *task.dev)
    start = time.perf_counter()
    layers = layers_of_interest(local.depth)
    rendered = answering_for(task, local).render(seed_prompt(task), everyone)
    states = local.layer_states([row.prompt_ids for row in rendered], layers, reads=[row.start for row in rendered])
    say(f"  {len(everyone)} rows in {time.perf_counter() - start:.0f} s")
    return {
        "layers": np.array(layers),
        "states": states.astype(np.float16),
        "labels": label_indices(everyone, task).astype(np.int64),
        "classes": np.array([len(task.labels)]),
    }


def fitted(
    states: NDArray[np.float16], labels: NDArray[np.int64], classes: int, others: NDArray[np.float16], seed: int
) -> tuple[Floats, Floats]:
    """A probe of labelled rows: cross-fitted log-probabilities of these, and log-probabilities of other rows."""
    found = cross_fit(states, labels, classes=classes, strengths=_STRENGTHS, repeats=1, seed=seed)
    known, mean, spread = standardised(states)
    weights = fit_logistic(known, labels, classes, strengths=[found.best.strength], tolerance=1e-3)
    features = ((others.astype(np.float64) - mean) / spread).astype(np.float32)
    return found.log_probs, tempered(weights.logits(features)[0], found.temperature)


def run_draw(data: Set, way: str, draw: int, held_out: int) -> dict[str, Any]:
    """Accuracy and log-loss on held-out rows after each batch."""
    order = np.random.default_rng([draw, 7]).permutation(len(data.labels))
    out, pool = order[:held_out], order[held_out:]
    labelled = [int(row) for row in pool[:START]]
    rng = np.random.default_rng([draw, 8])
    first = cross_fit(
        data.states[:, labelled], data.labels[labelled], classes=data.classes, layers=data.layers, repeats=1, seed=draw
    )
    states = data.states[data.layers.index(first.layer)]
    told: dict[str, Any] = {"layer": first.layer, "at": {}}
    for size, following in zip(SIZES, (*SIZES[1:], SIZES[-1]), strict=True):
        free = np.array([row for row in pool if row not in set(labelled)])
        others = np.concatenate([out, free])
        _, log_probs = fitted(states[labelled], data.labels[labelled], data.classes, states[others], draw)
        judged, gold = log_probs[:held_out], data.labels[out]
        told["at"][str(size)] = {
            "accuracy": round(float((judged.argmax(axis=1) == gold).mean()), 4),
            "log_loss": round(float(-judged[np.arange(held_out), gold].mean()), 4),
            "labels_seen": len(set(data.labels[labelled].tolist())),
        }
        if following > size:
            # As cotune label does it.
            picked = ACQUISITIONS[way](Pool(log_probs[held_out:], standardised(states[free])[0]), following - size, rng)
            assert len(set(picked)) == following - size
            labelled += [int(free[place]) for place in picked]
    return told


def run_coverage(data: Set, rows: int, draw: int, held_out: int) -> dict[str, Any]:
    """Coverage of held-out rows by sets whose threshold comes from cross-fitted or from held-out scores of labelled rows."""
    order = np.random.default_rng([draw, 7]).permutation(len(data.labels))
    out, mine = order[:held_out], order[held_out : held_out + rows]
    labels, gold = data.labels[mine], data.labels[out]
    first = cross_fit(data.states[:, mine], labels, classes=data.classes, layers=data.layers, repeats=1, seed=draw)
    states = data.states[data.layers.index(first.layer)]
    crossed, log_probs = fitted(states[mine], labels, data.classes, states[out], draw)
    learnt = round(0.7 * rows)
    _, apart = fitted(states[mine[:learnt]], labels[:learnt], data.classes, states[mine[learnt:]], draw)
    scores = {"cross": conformal_scores(crossed, labels), "split": conformal_scores(apart, labels[learnt:])}
    told: dict[str, Any] = {"accuracy": round(float((log_probs.argmax(axis=1) == gold).mean()), 4)}
    for name, found in scores.items():
        told[name] = asdict(coverage(label_sets(log_probs, threshold(found, SHARE)), gold))
        told[name]["n"] = len(found)
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are missing and print what all tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the classification sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--ways", nargs="+", default=list(ACQUISITIONS), choices=list(ACQUISITIONS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1700, help="rows of a set that are embedded")
    parser.add_argument("--held-out", type=int, default=500, help="rows among them that judge")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.sets:
        data = embedded(given.data, name, given.rows, given.out, given.model)
        wanted = [{"part": "labels", "set": name, "way": way, "draw": d} for d in range(given.draws) for way in given.ways]
        wanted += [{"part": "coverage", "set": name, "rows": n, "draw": d} for d in range(given.draws) for n in (200, 500)]
        for cell in wanted:
            if any(cell.items() <= found.items() for found in read_results(given.out)):
                continue
            start = time.perf_counter()
            if cell["part"] == "labels":
                found = run_draw(data, cell["way"], cell["draw"], given.held_out)
            else:
                found = run_coverage(data, cell["rows"], cell["draw"], given.held_out)
            say(f"{cell} {time.perf_counter() - start:.1f} s")
            add_result(given.out, cell | found)
    cells = [cell for cell in read_results(given.out) if cell["set"] in given.sets]
    curves = [cell for cell in cells if cell["part"] == "labels" and cell["way"] in given.ways]
    sets = [cell for cell in cells if cell["part"] == "coverage"]
    told = {"curve": curve(curves), "against_random": against_random(curves), "coverage": covered(sets)}
    print(json.dumps({**told, "machine": processor_name()}, indent=1))
    return 0


def curve(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over draws, by set, way and number of labels."""
    found: dict[str, Any] = {}
    for cell in cells:
        found.setdefault(cell["set"], {}).setdefault(cell["way"], []).append(cell["at"])
    return {
        name: {
            way: {
                str(size): {
                    what: round(float(np.mean([at[str(size)][what] for at in draws])), 4) for what in ("accuracy", "log_loss")
                }
                for size in TOLD
            }
            for way, draws in ways.items()
        }
        for name, ways in found.items()
    }


def against_random(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean difference to random rows with its standard error over sets and draws, few labels (up to 200) and more apart.

    A draw counts once: its differences at several numbers of labels are averaged first.
    """
    by_name = {(cell["set"], cell["draw"], cell["way"]): cell["at"] for cell in cells}
    names = sorted({cell["set"] for cell in cells})
    found: dict[str, Any] = {}
    for way in ACQUISITIONS:
        for part, sizes in (("few", TOLD[1:4]), ("many", TOLD[4:])):
            for group in (names, *([name] for name in names if len(names) > 1)):
                pairs = [
                    (at, by_name[name, draw, "random"])
                    for (name, draw, other), at in by_name.items()
                    if other == way != "random" and name in group and (name, draw, "random") in by_name
                ]
                if len(pairs) < 2:
                    continue
                told: dict[str, Any] = {"pairs": len(pairs)}
                for what in ("accuracy", "log_loss"):
                    gaps = [np.mean([mine[str(s)][what] - random[str(s)][what] for s in sizes]) for mine, random in pairs]
                    told[what] = round(float(np.mean(gaps)), 4)
                    told[f"{what}_se"] = round(float(np.std(gaps, ddof=1) / np.sqrt(len(gaps))), 4)
                key = "pooled" if group is names else group[0]
                found.setdefault(way, {}).setdefault(part, {})[key] = told
    return found


def covered(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over draws, by set and rows: coverage, the least of any label with its mean over draws, and what was answered."""
    found: dict[str, Any] = {}
    for name, rows in sorted({(cell["set"], cell["rows"]) for cell in cells}):
        mine = [cell for cell in cells if (cell["set"], cell["rows"]) == (name, rows)]
        told: dict[str, Any] = {"accuracy": round(float(np.mean([cell["accuracy"] for cell in mine])), 4)}
        for kind in ("cross", "split"):
            labels = sorted({label for cell in mine for label in cell[kind]["by_label"]}, key=int)
            by_label = {
                label: round(float(np.mean([c[kind]["by_label"][label] for c in mine if label in c[kind]["by_label"]])), 3)
                for label in labels
            }
            shares = sorted(by_label.values())
            told[kind] = {what: round(float(np.mean([c[kind][what] for c in mine])), 4) for what in _TOLD_OF_SETS}
            told[kind] |= {"lowest": round(min(c[kind]["covered"] for c in mine), 4), "labels_from": shares[0]}
            told[kind] |= {"labels_median": shares[len(shares) // 2], "by_label": by_label if len(by_label) <= 10 else {}}
        found.setdefault(name, {})[str(rows)] = told
    return found


_TOLD_OF_SETS = ("covered", "answered", "wrong", "size")


if __name__ == "__main__":
    sys.exit(main())
