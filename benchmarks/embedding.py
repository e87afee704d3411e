"""How good the model's own vectors are: STS-B, and nearest neighbours on labelled texts, for each way to embed.

    python benchmarks/embedding.py --data FOLDER [--work FOLDER] [--model NAME] [--ways prompt_eol static] [--minutes 9]
        [--quick]

Everything is chosen on pairs of STS-B's validation split; the test split is read once, whole, for the best setting of each
pooling and for the best of all. A way is a pooling. Centring and whitening are fitted on sentences of its train split.
The nearest neighbours of up to 500 test rows are looked for among 500 train rows, with the settings chosen on STS-B. A text is
run once for all layers, and what was run lies in the work folder: stopped after ``--minutes`` or by a kill, the same command
goes on. Prints one JSON object, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cotune.cache import cache_folder
from cotune.embed import Standardizer, StaticEmbedder
from cotune.embed.standardize import Standard
from cotune.embed.text import Pooling, beside, framed
from cotune.evaluate.stats.intervals import wilson
from cotune.files import atomic_path, content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.engine.hidden_states import last_states
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from measure import machine_facts, say

_SETS = ("trec6", "sms_spam", "snips", "banking77", "clinc150")
_NEIGHBOURS, _DRAWS, _PIECE = 5, 1000, 250

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """A setting: pooling, layers (None: all and the final norm), words beside the state or not, and how vectors are made
    comparable."""

    pooling: Pooling
    layer: int | None
    words: bool
    standard: Standard


class States:
    """Vectors of texts, run once for all layers and kept in a folder.

    Args:
        local: the model.
        folder: where vectors are kept.
        layers: numbers of layers; the last one stands for all and the final norm.
        deadline: of ``time.monotonic()``, after which nothing new is run.
    """

    def __init__(self, local: LocalModel, folder: Path, layers: Sequence[int | None], deadline: float) -> None:
        self.local, self.folder, self.layers, self.deadline = local, folder, list(layers), deadline
        self.static = StaticEmbedder(local)
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, way: Way, texts: Sequence[str]) -> Vectors:
        """``[texts, width]`` of a way, neither centred nor whitened."""
        words = self.static.embed(texts)
        if way.pooling == "static":
            return words
        pieces = [self._piece(texts[i : i + _PIECE]) for i in range(0, len(texts), _PIECE)]
        states = np.concatenate([piece[self.layers.index(way.layer)] for piece in pieces]).astype(np.float32)
        return beside(states, words) if way.words else states

    def _piece(self, texts: Sequence[str]) -> NDArray[np.float16]:
        ids = framed(self.local.tokenizer, texts)
        key = content_hash([self.local.fingerprint, self.local.settings.dtype, self.layers, ids])
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            if time.monotonic() > self.deadline:
                raise SystemExit("out of time: the same command goes on from here")
            started, told = time.monotonic(), list[int]()
            states = last_states(self.local, ids, self.layers, adapter=BASE, progress=told.append)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, states.astype(np.float16), allow_pickle=False)
            rate = sum(told) / (time.monotonic() - started)
            say(f"{len(texts)} texts, {sum(told)} tokens, {rate:.0f} a second")
        found: NDArray[np.float16] = np.load(path, allow_pickle=False)
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with stsb_en and the classification sets")
    parser.add_argument("--work", type=Path, help="folder for what was run; in cotune's cache where not given")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ways", nargs="+", default=get_args(Pooling), choices=get_args(Pooling), help="poolings to try")
    parser.add_argument("--sets", default=",".join(_SETS), help="classification sets; empty for none")
    parser.add_argument("--pairs", type=int, default=500, help="validation pairs to choose on, drawn at random")
    parser.add_argument("--rows", type=int, default=500, help="train and test rows of a classification set")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--quick", action="store_true", help="few pairs and settings, to see that all parts work")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    local = open_model(given.model)
    count = int(local.model.config.get_text_config().num_hidden_layers)
    layers = (None,) if given.quick else (*range(count - 10, count), None)
    states = States(local, given.work or cache_folder("embedding-benchmark"), layers, started + 60 * given.minutes)
    pairs, rows = (40, 40) if given.quick else (given.pairs, given.rows)
    tried = _validate(states, given.data / "stsb_en", given.ways, pairs)
    alone = [entry for entry in tried if not entry["words"]]
    leading = [max((t for t in alone if t["pooling"] == p), key=lambda t: float(t["validation"])) for p in given.ways]
    chosen = max(tried, key=lambda t: float(t["validation"]))
    reported = [*(entry for entry in leading if entry is not chosen), chosen]
    for entry in reported:
        entry |= _test(states, given.data / "stsb_en", entry)
    sets = [name for name in given.sets.split(",") if (given.data / name / "train.jsonl").is_file()]
    result = {
        "chosen": chosen,
        "best_by_pooling": leading,
        "nearest_neighbours": {name: _neighbours(states, given.data / name, reported, rows) for name in sets},
        "tried": tried,
        "machine": machine_facts(local),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(result, indent=1))
    return 0


def _validate(states: States, folder: Path, ways: Sequence[Pooling], pairs: int) -> list[dict[str, Any]]:
    rows = _drawn(_rows(folder / "validation.jsonl"), pairs, np.random.default_rng(0))
    other = _others(folder)
    tried = []
    for pooling in ways:
        still = pooling == "static"
        for layer in [None] if still else states.layers:
            for words in (False,) if still else (False, True):
                vectors = [
                    states.of(Way(pooling, layer, words, "none"), texts)
                    for texts in (other, _column(rows, 1), _column(rows, 2))
                ]
                for standard in get_args(Standard):
                    fitted = Standardizer.fit(vectors[0], standard)
                    rho = spearmanr(_likeness(fitted, vectors[1], vectors[2]), _scores(rows)).statistic
                    tried.append({**asdict(Way(pooling, layer, words, standard)), "validation": round(float(rho), 4)})
        say(f"{pooling}: {max(t['validation'] for t in tried if t['pooling'] == pooling)}")
    return tried


def _test(states: States, folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Spearman on the whole test split, with a bootstrap interval over pairs."""
    way, rows = _way(entry), _rows(folder / "test.jsonl")
    fitted = Standardizer.fit(states.of(way, _others(folder)), way.standard)
    likeness = _likeness(fitted, states.of(way, _column(rows, 1)), states.of(way, _column(rows, 2)))
    gold = _scores(rows)
    draws = np.random.default_rng(0).integers(0, len(rows), (_DRAWS, len(rows)))
    low, high = np.quantile([spearmanr(likeness[draw], gold[draw]).statistic for draw in draws], [0.025, 0.975])
    rho = float(spearmanr(likeness, gold).statistic)
    say(f"test: {way} {rho:.4f} ({low:.4f} to {high:.4f})")
    return {"test": round(rho, 4), "test_ci": [round(low, 4), round(high, 4)], "test_pairs": len(rows)}


def _neighbours(states: States, folder: Path, reported: Sequence[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Accuracy of the five nearest train rows' vote, for each reported way."""
    generator = np.random.default_rng(0)
    train, test = (_drawn(_rows(folder / f"{part}.jsonl"), rows, generator) for part in ("train", "test"))
    target = "intent" if "intent" in train[0] else "output"
    labels = np.array([str(row[target]) for row in train])
    texts = [[row["input"][:1200] for row in part] for part in (train, test)]
    found = []
    for entry in reported:
        way = _way(entry)
        raw, asked = (states.of(way, part) for part in texts)
        fitted = Standardizer.fit(raw, way.standard)
        near = np.argsort(-fitted.apply(asked) @ fitted.apply(raw).T, axis=1, kind="stable")
        right = sum(_vote(labels[order[:_NEIGHBOURS]]) == str(row[target]) for order, row in zip(near, test, strict=True))
        ends = wilson(right, len(test))
        found.append({**asdict(way), "accuracy": round(right / len(test), 4), "ci": [round(ends.low, 4), round(ends.high, 4)]})
        say(f"{folder.name}: {way} {right / len(test):.4f}")
    return {"train": len(train), "test": len(test), "labels": len(set(labels)), "ways": found}


def _vote(labels: NDArray[np.str_]) -> str:
    """The most frequent label; of equally frequent ones the nearest."""
    names, counts = np.unique(labels, return_counts=True)
    leading = set(names[counts == counts.max()])
    return str(next(label for label in labels if label in leading))


def _way(entry: dict[str, Any]) -> Way:
    return Way(**{name: entry[name] for name in Way.__dataclass_fields__})


def _likeness(fitted: Standardizer, first: Vectors, second: Vectors) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (fitted.apply(first).astype(np.float64) * fitted.apply(second)).sum(axis=1)
    return found


def _others(folder: Path) -> list[str]:
    """Sentences of the train split, on which centring and whitening are fitted."""
    rows = _drawn(_rows(folder / "train.jsonl"), 300, np.random.default_rng(1))
    return list(dict.fromkeys(_column(rows, 1) + _column(rows, 2)))


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _drawn(rows: list[dict[str, Any]], count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    return [rows[i] for i in generator.permutation(len(rows))[:count]]


def _column(rows: Sequence[dict[str, Any]], number: int) -> list[str]:
    return [row[f"sentence{number}"] for row in rows]


def _scores(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([row["score"] for row in rows], dtype=float)


if __name__ == "__main__":
    sys.exit(main())
