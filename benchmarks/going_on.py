"""What going on from a bundle keeps and gains: CLINC150, 20 labels first, 10 more later, with and without replayed rows.

    python benchmarks/going_on.py --data FOLDER --out FOLDER [--budget 4m] [--stage old|replay|alone|check]

Stages build on each other and each can be run again to go on; without ``--stage`` all run. ``check`` sets both new bundles
against the old one on rows of the old labels that no run learnt from, many more than the runs' own tests can afford and those
among them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

FIRST, LATER, ROWS_A_LABEL, FRESH_A_LABEL = 20, 10, 15, 30
OLD = """name: clinc-old
data: {train: old.jsonl, test: old_test.jsonl, input: input, output: output}
"""
NEW = """name: clinc-new
data: {train: new.jsonl, test: all_test.jsonl%s}
limit: {test: 300}
"""


def write_files(data: Path, out: Path) -> None:
    """Rows and task files; the labels are drawn by seed."""

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (data / "clinc150" / name).read_text(encoding="utf-8").split("\n") if line]

    def some(source: list[dict[str, str]], labels: list[str], count: int, seed: int) -> list[dict[str, str]]:
        rng, chosen = np.random.default_rng(seed), []
        for label in labels:
            mine = [row for row in source if row["output"] == label]
            chosen += [mine[i] for i in rng.permutation(len(mine))[:count]]
        return chosen

    train, test = rows("train.jsonl"), rows("test.jsonl")
    labels = sorted({row["output"] for row in train} - {"oos"})
    picked = [labels[i] for i in np.random.default_rng(0).permutation(len(labels))[: FIRST + LATER]]
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in (
        ("old", some(train, picked[:FIRST], ROWS_A_LABEL, 1)),
        ("old_test", some(test, picked[:FIRST], 10, 2)),
        ("new", some(train, picked[FIRST:], ROWS_A_LABEL, 3)),
        ("all_test", some(test, picked, FRESH_A_LABEL, 4)),
    ):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    (out / "old.yaml").write_text(OLD, encoding="utf-8")
    (out / "replay.yaml").write_text(NEW % ", replay: old.jsonl", encoding="utf-8")
    (out / "alone.yaml").write_text(NEW % "", encoding="utf-8")


def run_old(out: Path, budget: str) -> dict[str, Any]:
    """The first bundle."""
    import cotune

    return _told(cotune.run(str(out / "old.yaml"), out=out / "run_old", budget=budget).summary)


def run_new(out: Path, budget: str, stage: str) -> dict[str, Any]:
    """Going on from it with ten further labels; ``stage`` is ``replay`` or ``alone``."""
    import cotune

    start = out / "run_old" / "best"
    return _told(cotune.run(out / f"{stage}.yaml", out=out / f"run_{stage}", start=start, budget=budget).summary)


def check(out: Path) -> dict[str, Any]:
    """Old against new bundles on fresh rows of the old labels, and the new ones on rows of the new labels."""
    import cotune
    from cotune.evaluate.stats.paired import discordant_rows, mcnemar, paired_intervals

    rows = [json.loads(line) for line in (out / "all_test.jsonl").read_text(encoding="utf-8").split("\n") if line]
    bundles = {name: out / name / "best" for name in ("run_old", "run_replay", "run_alone") if (out / name / "best").is_dir()}
    known = set(json.loads((bundles["run_old"] / "manifest.json").read_text(encoding="utf-8"))["labels"])
    parts = {
        kind: [r for r in rows if (r["output"] in known) == (kind == "old_labels")] for kind in ("old_labels", "new_labels")
    }
    right: dict[str, dict[str, Any]] = {}
    for name, folder in bundles.items():
        predictor = cotune.load(folder)
        right[name] = {
            kind: np.array(predictor.predict([r["input"] for r in part])) == np.array([r["output"] for r in part])
            for kind, part in parts.items()
        }
    found: dict[str, Any] = {"n": {kind: len(part) for kind, part in parts.items()}}
    for name, table in right.items():
        found[name] = {kind: round(float(values.mean()), 4) for kind, values in table.items()}
        if name != "run_old":
            before, after = (right[which]["old_labels"].astype(float) for which in ("run_old", name))
            interval = paired_intervals(before, after, seed=0)(0.95)
            found[name]["old_labels_change"] = {
                "value": round(float(after.mean() - before.mean()), 4),
                "ci": [round(interval.low, 4), round(interval.high, 4)],
                "p": mcnemar(*discordant_rows(before, after)),
            }
    return found


def _told(summary: dict[str, Any]) -> dict[str, Any]:
    arms = {name: {key: arm[key] for key in ("score", "ci", "n", "steps")} for name, arm in summary["arms"].items()}
    cost = summary["cost"]
    return {
        "verdict": summary["verdict"],
        "arms": arms,
        "previous": summary.get("previous"),
        "n": summary["n"],
        "tokens": cost["tokens_scored"] + cost["tokens_trained"] + cost["tokens_embedded"],
        "wall_s": cost["wall_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clinc150/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="4m", help="of each run (default: 4m)")
    parser.add_argument("--stage", choices=("old", "replay", "alone", "check"))
    given = parser.parse_args()
    write_files(given.data, given.out)
    stages = {
        "old": lambda: run_old(given.out, given.budget),
        "replay": lambda: run_new(given.out, given.budget, "replay"),
        "alone": lambda: run_new(given.out, given.budget, "alone"),
        "check": lambda: check(given.out),
    }
    wanted = [given.stage] if given.stage else list(stages)
    print(json.dumps({stage: stages[stage]() for stage in wanted}, indent=2))


if __name__ == "__main__":
    main()
