"""What a person can do next, read off a run's summary."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cotune.report.terminal.plain import corrected_p, fields, items, number

# Wider than this, an interval leaves open whether the prompt matters at all.
_WIDE = 0.06
_FEW_ROWS = 300
_FOLDER = "ANOTHER_FOLDER"


def next_steps(summary: Mapping[str, Any]) -> list[str]:
    """Everything a person can do next: use the bundle, try an own prompt, and what would make the answer better or surer.

    Args:
        summary: as ``summary.json`` holds it; ``out``, where it is there, is the run's folder.
    """
    given = [step for step in items(summary.get("next")) if isinstance(step, str) and step.strip()]
    # Where the run's folder lies is not known to a summary that is read elsewhere.
    folder = shlex.quote(f"{summary['out']}-2") if summary.get("out") else _FOLDER
    return [*_uses(summary), *(step.replace(_FOLDER, folder) for step in given or improvements(summary))]


def improvements(summary: Mapping[str, Any]) -> list[str]:
    """What would make the answer better or surer, the most useful first; what a run's summary keeps as ``next``."""
    steps = []
    if (advice := more_rows(summary)) is not None:
        steps.append(advice)
    if any(word in str(summary.get("stopped")) for word in ("budget", "reserved")):
        gained = still_gaining(items(summary.get("cycles")))
        why = "the last cycle still gained on dev" if gained else "this run ended while there were steps left to take"
        steps.append(f"Give it a larger budget, as {why}: the same command with --budget {_twice(summary)} --out {_FOLDER}")
    train = number(fields(summary.get("n")).get("train"))
    if train is not None and train < _FEW_ROWS:
        steps.append(f"Only {train:.0f} rows were learnt from; more labelled rows usually gain the most.")
    return steps


def _uses(summary: Mapping[str, Any]) -> list[str]:
    if not fields(summary.get("best")).get("bundle"):
        return []
    path = bundle_path(summary)
    run = path.parent if path.name == "best" else path
    return [
        f'Use it: cotune predict {shlex.quote(str(path))} --input "..."',
        f"Try a prompt of your own against it: cotune try {shlex.quote(str(run))}",
        f"See where it errs: cotune view {shlex.quote(str(run))}",
    ]


def _twice(summary: Mapping[str, Any]) -> str:
    """Twice the run's budget, as ``--budget`` takes it."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", str(summary.get("budget") or ""))
    return f"{2 * float(found[1]):g}{found[2]}" if found else "of twice as much"


def bundle_path(summary: Mapping[str, Any]) -> PurePath:
    """Where the bundle lies, as far as the summary and its ``out`` say."""
    return PurePath(str(summary.get("out") or "")) / str(fields(summary.get("best")).get("bundle") or "")


def more_rows(summary: Mapping[str, Any]) -> str | None:
    """Advice to label more rows, where the interval of what the prompt adds to tuning is wide and says neither yes nor no."""
    gain = fields(fields(summary.get("gains")).get("prompt_given_tuning"))
    if gain.get("identical"):
        gain = fields(fields(summary.get("gains")).get("both"))
    low, high = ([*(number(end) for end in items(gain.get("ci"))), None, None])[:2]
    p = corrected_p(gain)
    if low is None or high is None or high - low < _WIDE or (p is not None and p < 0.05):
        return None
    test = number(fields(summary.get("n")).get("test"))
    rows = f"more than {test:.0f}" if test else "more"
    return (
        f"To know whether the prompt matters here, test on {rows} labelled rows: the interval is {100 * (high - low):.0f} "
        "points wide, and four times the rows halve it."
    )


def still_gaining(cycles: list[Any], least: float = 0.002) -> bool:
    """Whether the last cycle's best score on dev beats all before it by at least ``least``; a first cycle always does."""
    bests = [best for best in (_best_score(cycle) for cycle in cycles) if best is not None]
    return len(bests) == 1 or (len(bests) > 1 and bests[-1] >= max(bests[:-1]) + least)


def _best_score(value: object) -> float | None:
    """The highest ``score`` anywhere in a cycle's record."""
    if isinstance(value, Mapping):
        found = [number(value.get("score"))] + [_best_score(item) for key, item in value.items() if key != "score"]
    elif isinstance(value, (list, tuple)):
        found = [_best_score(item) for item in value]
    else:
        return None
    return max((score for score in found if score is not None), default=None)
