"""Does a change of cotune make its runs better? Runs of two versions on the same rows, set against each other row by row.

    python benchmarks/versions.py rows --data FOLDER --out FOLDER [--sets trec6 sms_spam clinc150] [--seeds 0 1]
    cotune run OUT/trec6-0.yaml --out OUT/before/trec6-0 --budget 8m --seed 0      # each version, each task
    cotune run OUT/trec6-0.yaml --out OUT/after/trec6-0 --budget 8m --seed 0
    python benchmarks/versions.py table --out FOLDER [--before before] [--after after] [--arm best_tuned] [--json]

``rows`` draws labelled rows and test rows for each set and seed and writes a task file for them, so that every version learns
from and is tested on the same rows; of CLINC150 it keeps 20 labels, drawn once. ``table`` takes the tasks that both versions
have finished. Differences are of the named arm, after minus before, pooled over tasks; test rows that two seeds drew are
resampled together. Runs with a time budget hang on how fast the machine is: run one at a time, and the two versions in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.evaluate.stats.paired import paired_interval, sign_flip_test
from cotune.files import write_text

SETS = ("trec6", "sms_spam", "clinc150")
_LABELS_OF_CLINC = 20
_LEAST = 5e-6
"""Probabilities are kept with five decimals."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """What an arm of a finished run did on its test rows.

    Attributes:
        rows: the rows' inputs, in the run's order.
        correct: 1 where the answer is right.
        losses: log-loss in nats, at most 12.2.
        score: as the run reports it.
        log_loss: as the run reports it.
        seconds: of the whole run.
    """

    rows: tuple[str, ...]
    correct: Floats
    losses: Floats
    score: float
    log_loss: float
    seconds: float


def write_rows(data: Path, out: Path, name: str, seed: int, train: int, test: int) -> None:
    """A task file and its rows."""
    parts = {part: _rows(data / name / f"{part}.jsonl") for part in ("train", "test")}
    if name == "clinc150":
        labels = sorted({row["output"] for row in parts["train"]} - {"oos"})
        kept = {labels[i] for i in np.random.default_rng(0).permutation(len(labels))[:_LABELS_OF_CLINC]}
        parts = {part: [row for row in rows if row["output"] in kept] for part, rows in parts.items()}
    out.mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate((("train", train), ("test", test))):
        order = np.random.default_rng([seed, number]).permutation(len(parts[part]))[:count]
        lines = (json.dumps({key: parts[part][i][key] for key in ("input", "output")}) + "\n" for i in order)
        write_text(out / f"{name}-{seed}.{part}.jsonl", "".join(lines))
    write_text(
        out / f"{name}-{seed}.yaml",
        f"name: {name}\n"
        f"data: {{train: {name}-{seed}.train.jsonl, test: {name}-{seed}.test.jsonl, input: input, output: output}}\n"
        "output: {type: label}\n",
    )


def read_run(folder: Path, arm: str) -> Tested:
    """An arm of a finished run.

    Raises:
        SystemExit: the run has no such arm.
    """
    kept = json.loads((folder / "test_rows.json").read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if arm not in summary["arms"]:
        raise SystemExit(f"{folder}: no arm {arm}; it has {', '.join(summary['arms'])}")
    rows, found = kept["rows"], summary["arms"][arm]
    said = np.array([row["probabilities"][arm][row["gold"]] for row in rows], dtype=np.float64)
    return Tested(
        rows=tuple(json.dumps(row["input"], sort_keys=True) for row in rows),
        correct=np.array([row["answers"][arm] == row["gold"] for row in rows], dtype=np.float64),
        losses=-np.log(np.maximum(said, _LEAST)),
        score=float(found["score"]),
        log_loss=float(found["log_loss"]),
        seconds=float(summary["cost"]["wall_s"]),
    )


def compare(before: Sequence[Tested], after: Sequence[Tested]) -> dict[str, Any]:
    """After minus before, pooled over runs that go in pairs.

    Raises:
        SystemExit: two runs of a pair have other test rows.
    """
    pairs = [(first, _in_order(second, first.rows)) for first, second in zip(before, after, strict=True)]
    groups = [row for first, _ in pairs for row in first.rows]
    found: dict[str, Any] = {"runs": len(pairs), "n": len(groups)}
    for key in ("correct", "losses"):
        one, two = (np.concatenate([getattr(pair[side], key) for pair in pairs]) for side in (0, 1))
        ends = paired_interval(one, two, seed=0, groups=groups)
        found["score" if key == "correct" else "log_loss"] = {
            "before": round(float(one.mean()), 4),
            "after": round(float(two.mean()), 4),
            "difference": round(float((two - one).mean()), 4),
            "ci": [round(float(ends.low), 4), round(float(ends.high), 4)],
            "p": round(sign_flip_test(two - one, seed=0, groups=groups), 4),
        }
    return found


def _in_order(run: Tested, rows: Sequence[str]) -> Tested:
    places = {row: i for i, row in enumerate(run.rows)}
    if len(places) != len(run.rows) or set(places) != set(rows):
        raise SystemExit("two runs of one task have other test rows, or a row twice: write rows anew with the command 'rows'")
    order = [places[row] for row in rows]
    return Tested(tuple(rows), run.correct[order], run.losses[order], run.score, run.log_loss, run.seconds)


def table(out: Path, before: str, after: str, arm: str) -> dict[str, Any]:
    """All tasks that both versions have finished, and the pooled difference.

    Raises:
        SystemExit: there are none.
    """
    done = {path.parent.name for path in (out / before).glob("*/summary.json") if (out / after / path.parent.name).is_dir()}
    names = sorted(name for name in done if (out / after / name / "summary.json").is_file())
    if not names:
        raise SystemExit(f"no task in {out} has been run to its end by both {before} and {after}")
    runs = {side: [read_run(out / side / name, arm) for name in names] for side in (before, after)}
    lines = []
    for name, first, second in zip(names, runs[before], runs[after], strict=True):
        sides = {
            label: {"score": run.score, "log_loss": run.log_loss, "seconds": run.seconds}
            for label, run in (("before", first), ("after", second))
        }
        lines.append({"task": name, **sides, "compared": compare([first], [second])})
    return {"arm": arm, "tasks": lines, "pooled": compare(runs[before], runs[after])}


def markdown(found: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        "| task | test rows | before | after | difference in points (95% interval) | log-loss before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in (*found["tasks"], {"task": "all", "compared": found["pooled"]}):
        score, loss = line["compared"]["score"], line["compared"]["log_loss"]
        low, high = (100 * end for end in score["ci"])
        facts = [
            line["task"],
            line["compared"]["n"],
            f"{score['before']:.3f}",
            f"{score['after']:.3f}",
            f"{100 * score['difference']:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{loss['before']:.3f}",
            f"{loss['after']:.3f}",
        ]
        lines.append(f"| {' | '.join(map(str, facts))} |")
    return "\n".join(lines)


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows with different inputs: a test row that comes twice cannot be paired."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return list({row["input"]: row for row in reversed(rows)}.values())[::-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write rows, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows", help="draw rows and write task files")
    rows.add_argument("--data", type=Path, required=True)
    rows.add_argument("--sets", nargs="+", default=list(SETS))
    rows.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    rows.add_argument("--train", type=int, default=500, help="labelled rows")
    rows.add_argument("--test", type=int, default=500, help="test rows")
    told = commands.add_parser("table", help="set the finished runs against each other")
    told.add_argument("--before", default="before", help="folder of the one version's runs in OUT")
    told.add_argument("--after", default="after")
    told.add_argument("--arm", default="best_tuned")
    told.add_argument("--json", action="store_true")
    for command in (rows, told):
        command.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    if given.command == "rows":
        for name in given.sets:
            for seed in given.seeds:
                write_rows(given.data, given.out, name, seed, given.train, given.test)
        return 0
    found = table(given.out, given.before, given.after, given.arm)
    print(json.dumps(found, indent=1) if given.json else markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
