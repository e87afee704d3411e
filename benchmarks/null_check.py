"""How often a whole run claims a gain where there is nothing to learn: random words with balanced labels dealt at random.

Every split is such, so each significant gain is a false one. With Holm's correction at 5%, at most one run in twenty should
claim any. Prints one JSON object:

    python benchmarks/null_check.py --model path/of/a/model [--runs 20] [--budget 60ktok]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cotune.config import config_from_data
from cotune.cycle.run import run
from cotune.evaluate.frozen_arms import GAINS

LABELS = ("fruit", "animal", "tool")
_WORDS = ("apple", "cat", "saw", "pear", "dog", "axe", "plum", "cow", "drill", "fig", "hen", "file")
ROWS = {"train": 48, "dev": 39, "test": 120}
BUDGET = "60ktok"
SETTINGS = (
    "tune.batch_size=8",
    "tune.rank=4",
    "tune.learning_rate=0.01",
    "tune.max_epochs=4",
    "search.pool=6",
    "search.max_cycles=2",
    "engine.threads=1",
    "engine.dtype=float32",
)
ALPHA = 0.05


def write_null_task(folder: Path, seed: int, *, told: bool = False) -> dict[str, Path]:
    """Three CSV files whose labels say nothing about their texts; each label stands equally often in each.

    With ``told`` the text names the label, for a look at whether the check would see a gain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = {}
    for split, count in ROWS.items():
        labels = rng.permutation([LABELS[i % len(LABELS)] for i in range(count)])
        words = [[str(label)] * 2 if told else rng.choice(_WORDS, 2) for label in labels]
        lines = [f"{' '.join(words[i])} {split[:2]}{i},{label}" for i, label in enumerate(labels)]
        paths[split] = folder / f"{split}.csv"
        paths[split].write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return paths


def null_run(
    folder: Path, model: str, seed: int, *, budget: str = BUDGET, told: bool = False, readout: str = "auto"
) -> dict[str, Any]:
    """One run on such a task: which gains its verdict calls significant, and whether it went through all its stages."""
    paths = write_null_task(folder / "rows", seed, told=told)
    config = config_from_data(
        str(paths["train"]),
        input="text",
        output="label",
        overrides=(f"data.dev={paths['dev']}", f"data.test={paths['test']}", f"tune.readout={readout}", *SETTINGS),
        model=model,
        budget=budget,
        seed=seed,
    )
    started = time.monotonic()
    summary = run(config, folder / "run").summary
    # The log-loss does not count: tuning can truly mend how sure a model is, even where labels mean nothing.
    claimed = [
        name
        for name, gain in summary["gains"].items()
        if name in GAINS and not gain["identical"] and gain["p"] < ALPHA and not gain["within_noise"]
    ]
    kinds = [json.loads(line)["kind"] for line in (folder / "run" / "journal.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "claimed": claimed,
        "gained": [name for name in claimed if summary["gains"][name]["value"] > 0],
        "stages": {kind: kinds.count(kind) for kind in ("race", "train", "tuned", "arm")},
        "verdict": summary["verdict"],
        "dev": summary["selection"]["dev"],
        "test": summary["selection"]["test"],
        "seconds": round(time.monotonic() - started, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="as a config's model key takes it; an absolute path for a folder")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--budget", default=BUDGET)
    parser.add_argument("--readout", default="auto", help="as tune.readout takes it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            null_run(Path(folder) / str(seed), given.model, seed, budget=given.budget, readout=given.readout)
            for seed in range(given.runs)
        ]
    for one in runs:
        del one["verdict"]
    told = {
        "runs": given.runs,
        "runs_that_claim": sum(bool(one["claimed"]) for one in runs),
        "runs_that_claim_a_gain": sum(bool(one["gained"]) for one in runs),
        "mean_optimism_on_dev": round(float(np.mean([one["dev"] - one["test"] for one in runs])), 4),
        "each": runs,
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
