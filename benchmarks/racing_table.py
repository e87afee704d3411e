"""What ``racing.py`` found: a table a set and size, with intervals and paired differences pooled over seeds.

    python benchmarks/racing_table.py --out FOLDER [--against seed] [--json]

A difference is taken row by row between two cells of one seed, so only seeds that have both count, and it says how many. Rows
that several seeds drew are resampled together. Intervals speak of rows like these and of these seeds: with three seeds or fewer
they say little about how much another draw of labelled rows would change. P-values are corrected within a table (Holm).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cells import correct_of, paired, read_results
from compare.pairs import holm
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.packing import unpack_rows
from cotune.evaluate.robustness import robustness
from cotune.evaluate.stats.intervals import proportion_interval
from cotune.evaluate.stats.paired import paired_interval, sign_flip_test
from racing_ways import WAYS

Cell = dict[str, Any]
Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where racing.py wrote its results")
    parser.add_argument("--against", default="seed", choices=list(WAYS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    cells = read_results(given.out)
    found = [
        {"set": name, "rows": rows, "cells": table([c for c in cells if (c["set"], c["rows"]) == (name, rows)], given.against)}
        for name, rows in dict.fromkeys((c["set"], c["rows"]) for c in cells)
    ]
    print(json.dumps(found, indent=1) if given.json else "\n\n".join(map(markdown, found)))
    return 0


def table(cells: Sequence[Cell], against: str) -> list[dict[str, Any]]:
    """A line for each way, the one that the others are compared with first."""
    ways = [against, *(way for way in WAYS if way != against)]
    by_way = {way: {c["seed"]: c for c in cells if c["cell"] == way} for way in ways}
    lines = [_line(way, by_way[way], by_way[against] if way != against else {}) for way in ways if by_way[way]]
    compared = [line for line in lines if line["difference"]]
    for line, p in zip(compared, holm([line["difference"]["p"] for line in compared]), strict=True):
        line["difference"]["p_holm"] = round(p, 4)
    return lines


def _line(way: str, cells: dict[int, Cell], others: dict[int, Cell]) -> dict[str, Any]:
    seeds = sorted(cells)
    mine = [cells[seed] for seed in seeds]
    correct, ids = _pooled(mine)
    ends = proportion_interval(correct, groups=ids)
    both = [seed for seed in seeds if seed in others]
    return {
        "cell": way,
        "seeds": seeds,
        "n": len(correct),
        "steps": [c["steps"] for c in mine],
        "tokens": [c["tokens"] for c in mine],
        "dev": round(float(np.mean([c["dev"] for c in mine])), 4),
        "test": round(float(correct.mean()), 4),
        "ci": _ends(ends.low, ends.high),
        "by_seed": [c["test"] for c in mine],
        "log_loss": round(float(np.mean([c["log_loss"] for c in mine])), 4),
        "wordings": _wordings(mine),
        "difference": _difference([others[s] for s in both], [cells[s] for s in both]) if both else None,
    }


def _difference(first: Sequence[Cell], second: Sequence[Cell]) -> dict[str, Any]:
    """Second minus first."""
    (before, ids), (after, _) = _pooled(first), _pooled(second)
    found = paired(first, second)
    asked = [[_asked(side, i) for i in range(len(side[0]["wordings"]))] for side in (first, second)]
    spread = robustness(asked[0], asked[1], groups=_wording_ids(first))
    words = [np.mean([arm.score for arm in side], axis=0) for side in asked]
    unseen = paired_interval(words[0], words[1], seed=0, groups=_wording_ids(first))
    return {
        "seeds": [c["seed"] for c in first],
        "n": found["n"],
        "score": found["score"],
        "ci": found["score_ci"],
        "p": round(sign_flip_test(after - before, seed=0, groups=ids), 4),
        "log_loss": found["log_loss"],
        "log_loss_ci": found["log_loss_ci"],
        "wordings": round(float(np.mean(words[1] - words[0])), 4),
        "wordings_ci": _ends(unseen.low, unseen.high),
        "wordings_sd": round(spread.change.value, 4),
        "wordings_sd_ci": _ends(spread.change.ci.low, spread.change.ci.high),
    }


def _wordings(cells: Sequence[Cell]) -> dict[str, Any]:
    """Under the eight other wordings: mean, worst and spread of the accuracy."""
    scores = np.array([_asked(cells, i).score.mean() for i in range(len(cells[0]["wordings"]))])
    return {
        "n": len(_wording_ids(cells)),
        "mean": round(float(scores.mean()), 4),
        "worst": round(float(scores.min()), 4),
        "sd": round(float(scores.std(ddof=1)), 4),
    }


def _asked(cells: Sequence[Cell], wording: int) -> ArmScores:
    return ArmScores(np.concatenate([unpack_rows(c["wordings"][wording]) for c in cells]).astype(np.float64))


def _wording_ids(cells: Sequence[Cell]) -> list[str]:
    return [row for cell in cells for row in cell["wording_row_ids"]]


def _pooled(cells: Sequence[Cell]) -> tuple[Floats, list[str]]:
    correct = np.concatenate([correct_of(c) for c in cells])
    return correct, [row for cell in cells for row in cell["row_ids"]]


def _ends(low: float, high: float) -> list[float]:
    return [round(float(low), 4), round(float(high), 4)]


def markdown(found: dict[str, Any]) -> str:
    """A table for people."""
    lines = [
        f"{found['set']}, {found['rows']} labelled rows",
        "",
        "| way | seeds | n | steps | dev | test | log-loss | against the first | p (Holm) | log-loss "
        "| wordings | worst | sd | wordings against the first |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in found["cells"]:
        difference, words = line["difference"], line["wordings"]
        against, asked = ["", "", ""], ""
        if difference:
            low, high = (100 * end for end in difference["ci"])
            less, more = difference["log_loss_ci"]
            against = [
                f"{100 * difference['score']:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{difference['p_holm']:.3f}",
                f"{difference['log_loss']:+.3f} ({less:+.3f} to {more:+.3f})",
            ]
            low, high = (100 * end for end in difference["wordings_ci"])
            asked = f"{100 * difference['wordings']:+.1f} ({low:+.1f} to {high:+.1f})"
        steps = " ".join(map(str, line["steps"]))
        test = f"{line['test']:.3f} ({line['ci'][0]:.3f} to {line['ci'][1]:.3f})"
        facts = [
            line["cell"],
            len(line["seeds"]),
            line["n"],
            steps,
            f"{line['dev']:.3f}",
            test,
            f"{line['log_loss']:.3f}",
            *against,
            f"{words['mean']:.3f}",
            f"{words['worst']:.3f}",
            f"{words['sd']:.3f}",
            asked,
        ]
        lines.append(f"| {' | '.join(map(str, facts))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
