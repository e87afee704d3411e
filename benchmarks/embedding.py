"""How good the model's own vectors are: STS-B, and nearest neighbours on labelled texts, for each way to embed.

    python benchmarks/embedding.py --data FOLDER [--model NAME] [--pairs N] [--rows N] [--quick]

Everything is chosen on STS-B's validation split; the test split is read once for the best setting of each pooling. Centring
and whitening are fitted on sentences of its train split. The nearest neighbours of up to 500 test rows are looked for among
500 train rows, with the settings chosen on STS-B. Prints one JSON object, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cotune.embed import EmbedSettings, Standardizer, TextEmbedder
from cotune.embed.standardize import Standard
from cotune.embed.text import Pooling
from cotune.evaluate.intervals import wilson
from cotune.model.local import LocalModel
from cotune.model.opening import open_model
from measure import machine_facts, say

_SETS = ("trec6", "banking77", "sms_spam", "clinc150", "snips")
_NEIGHBOURS = 5
_DRAWS = 1000

Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb_en and the classification sets")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=1500, help="pairs of a split at most")
    parser.add_argument("--rows", type=int, default=500, help="train and test rows of a classification set")
    parser.add_argument("--quick", action="store_true", help="few pairs and settings, to see that all parts work")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    local = open_model(given.model)
    pairs, rows = (40, 40) if given.quick else (given.pairs, given.rows)
    tried = _validate(local, given.data / "stsb_en", pairs, quick=given.quick)
    best = {p: max((t for t in tried if t["pooling"] == p), key=lambda t: t["validation"]) for p in get_args(Pooling)}
    chosen = max(best.values(), key=lambda t: float(t["validation"]))
    for entry in best.values():
        entry |= _test(local, given.data / "stsb_en", entry, pairs)
    result = {
        "chosen": chosen,
        "best_by_pooling": list(best.values()),
        "nearest_neighbours": {n: _neighbours(local, given.data / n, best, rows) for n in _SETS if (given.data / n).is_dir()},
        "tried": tried,
        "machine": machine_facts(local),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=1))
    return 0


def _settings(layers: int, *, quick: bool) -> Iterator[EmbedSettings]:
    """Every pooling at the last layers, one frame; averaging frames where there are several."""
    places: tuple[int | None, ...] = (None,) if quick else (None, layers - 1, layers - 2, layers - 4, layers - 7)
    for pooling in get_args(Pooling):
        for layer in places:
            yield EmbedSettings(pooling, layer)
    for frames in (2, 3):
        for layer in places:
            yield EmbedSettings("prompt_eol", layer, frames)


def _validate(local: LocalModel, folder: Path, pairs: int, *, quick: bool) -> list[dict[str, Any]]:
    other = _sentences(_rows(folder / "train.jsonl", pairs))[:1000]
    rows = _rows(folder / "validation.jsonl", pairs)
    tried = []
    for settings in _settings(int(local.model.config.get_text_config().num_hidden_layers), quick=quick):
        embedder = TextEmbedder(local, settings)
        fitted_on, first, second = (embedder.embed(texts) for texts in (other, _column(rows, 1), _column(rows, 2)))
        for standard in get_args(Standard):
            score = _spearman(Standardizer.fit(fitted_on, standard), first, second, rows)
            tried.append({**_facts(settings, standard), "validation": round(score, 4)})
        say(f"{settings.pooling} layer {settings.layer} frames {settings.frames}: {max(t['validation'] for t in tried[-3:])}")
    return tried


def _test(local: LocalModel, folder: Path, entry: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Spearman on the test split with a bootstrap interval over pairs."""
    embedder, standard = _made(local, entry)
    fitted = Standardizer.fit(embedder.embed(_sentences(_rows(folder / "train.jsonl", pairs))[:1000]), standard)
    rows = _rows(folder / "test.jsonl", pairs)
    likeness = _likeness(fitted, embedder.embed(_column(rows, 1)), embedder.embed(_column(rows, 2)))
    gold = np.array([row["score"] for row in rows], dtype=float)
    draws = np.random.default_rng(0).integers(0, len(rows), (_DRAWS, len(rows)))
    drawn = [spearmanr(likeness[draw], gold[draw]).statistic for draw in draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"test": round(float(spearmanr(likeness, gold).statistic), 4), "test_ci": [round(low, 4), round(high, 4)]}


def _neighbours(local: LocalModel, folder: Path, best: dict[str, dict[str, Any]], rows: int) -> dict[str, Any]:
    """Accuracy of the five nearest train rows' vote, for each pooling's setting."""
    generator = np.random.default_rng(0)
    train, test = (_drawn(_rows(folder / f"{part}.jsonl", None), rows, generator) for part in ("train", "test"))
    target = "intent" if "intent" in train[0] else "output"
    labels = np.array([str(row[target]) for row in train])
    found = {}
    for pooling, entry in best.items():
        embedder, standard = _made(local, entry)
        raw = embedder.embed([row["input"] for row in train])
        fitted = Standardizer.fit(raw, standard)
        near = np.argsort(-fitted.apply(embedder.embed([row["input"] for row in test])) @ fitted.apply(raw).T, axis=1)
        right = sum(_vote(labels[order[:_NEIGHBOURS]]) == str(row[target]) for order, row in zip(near, test, strict=True))
        ends = wilson(right, len(test))
        found[pooling] = {"accuracy": round(right / len(test), 4), "ci": [round(ends.low, 4), round(ends.high, 4)]}
    say(f"{folder.name}: " + ", ".join(f"{name} {value['accuracy']}" for name, value in found.items()))
    return {"train": len(train), "test": len(test), "labels": len(set(labels)), **found}


def _vote(labels: NDArray[np.str_]) -> str:
    """The most frequent label; of equally frequent ones the nearest."""
    names, counts = np.unique(labels, return_counts=True)
    leading = set(names[counts == counts.max()])
    return str(next(label for label in labels if label in leading))


def _made(local: LocalModel, entry: dict[str, Any]) -> tuple[TextEmbedder, Standard]:
    return TextEmbedder(local, EmbedSettings(entry["pooling"], entry["layer"], entry["frames"])), entry["standard"]


def _facts(settings: EmbedSettings, standard: Standard) -> dict[str, Any]:
    return {"pooling": settings.pooling, "layer": settings.layer, "frames": settings.frames, "standard": standard}


def _spearman(fitted: Standardizer, first: Vectors, second: Vectors, rows: Sequence[dict[str, Any]]) -> float:
    return float(spearmanr(_likeness(fitted, first, second), [row["score"] for row in rows]).statistic)


def _likeness(fitted: Standardizer, first: Vectors, second: Vectors) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (fitted.apply(first).astype(np.float64) * fitted.apply(second)).sum(axis=1)
    return found


def _rows(path: Path, most: int | None) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:most]


def _drawn(rows: list[dict[str, Any]], count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    order = generator.permutation(len(rows))[:count]
    return [rows[i] for i in order]


def _column(rows: Sequence[dict[str, Any]], number: int) -> list[str]:
    return [row[f"sentence{number}"] for row in rows]


def _sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_column(rows, 1) + _column(rows, 2)))


if __name__ == "__main__":
    sys.exit(main())
