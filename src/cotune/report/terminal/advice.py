"""What a person can do next, read off a run's summary."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cotune.report.terminal.plain import corrected_p, fields, items, number
from cotune.report.terminal.result import frozen_first

# Wider than this, an interval leaves open whether the prompt matters at all.
_WIDE = 0.06
_FEW_ROWS = 300
_ANOTHER = " --out ANOTHER_FOLDER"
"""What earlier versions wrote behind a command; a larger budget goes into a numbered folder by itself."""


def next_steps(summary: Mapping[str, Any]) -> list[str]:
    """Everything a person can do next: use the bundle, try an own prompt, and what would make the answer better or surer.

    Args:
        summary: as ``summary.json`` holds it; ``out``, where it is there, is the run's folder.
    """
    return [*_uses(summary), *(stored_steps(summary) or improvements(summary))]


def stored_steps(summary: Mapping[str, Any]) -> list[str]:
    """What a run's summary keeps as ``next``."""
    given = [step for step in items(summary.get("next")) if isinstance(step, str) and step.strip()]
    return [step.removesuffix(_ANOTHER) for step in given]


def improvements(summary: Mapping[str, Any]) -> list[str]:
    """What would make the answer better or surer, the most useful first; what a run's summary keeps as ``next``."""
    steps = []
    if (advice := more_rows(summary)) is not None:
        steps.append(advice)
    if any(word in str(summary.get("stopped")) for word in ("budget", "reserved")):
        by_probe = frozen_first(summary)
        gained = still_gaining(items(summary.get("cycles")), by_loss=by_probe)
        where = "held-out rows" if by_probe else "dev"
        why = f"the last cycle still gained on {where}" if gained else "this run ended while there were steps left to take"
        steps.append(f"Give it a larger budget, as {why}: the same command with {_twice(summary)}")
    learnt = _learnt_from(summary)
    if learnt is not None and learnt < _FEW_ROWS:
        rows = "1 row was" if learnt == 1 else f"{learnt:.0f} rows were"
        steps.append(f"Only {rows} learnt from; more labelled rows usually gain the most.")
    return steps


def _learnt_from(summary: Mapping[str, Any]) -> float | None:
    """Labelled rows that the last fit learnt from: with probes those of train and dev, else those of train."""
    n = fields(summary.get("n"))
    train, dev = number(n.get("train")), number(n.get("dev"))
    return train if train is None or not frozen_first(summary) else train + (dev or 0.0)


def _uses(summary: Mapping[str, Any]) -> list[str]:
    if not fields(summary.get("best")).get("bundle"):
        return []
    path = bundle_path(summary)
    run = path.parent if path.name == "best" else path
    return [
        f'Use it: cotune predict {shlex.quote(str(run))} --input "..."',
        f"Try a prompt of your own against it: cotune try {shlex.quote(str(run))}",
        f"See where it errs: cotune view {shlex.quote(str(run))}",
    ]


def _twice(summary: Mapping[str, Any]) -> str:
    """The option that gives a run twice its budget."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", str(summary.get("budget") or ""))
    # An exponent is none of the forms that a budget is given in.
    return f"--budget {2 * float(found[1]):.15g}{found[2]}" if found else "twice the --budget"


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


def still_gaining(cycles: list[Any], least: float = 0.002, *, by_loss: bool = False) -> bool:
    """Whether the winner of the last cycle beats those of all cycles before it by at least ``least``.

    Args:
        cycles: as a summary holds them. Of one cycle alone nobody knows whether another would gain.
        least: points of the score, or nats.
        by_loss: whether the log-loss decides, as it does with probes; else it does where a cycle has no score.
    """
    levels = [level for level in (_reached(fields(cycle), by_loss) for cycle in cycles) if level is not None]
    return len(levels) > 1 and levels[-1] >= max(levels[:-1]) + least


def _reached(cycle: Mapping[str, Any], by_loss: bool) -> float | None:
    """How well a cycle's winner does on held-out rows, higher being better."""
    score, loss = number(cycle.get("dev_score")), number(cycle.get("dev_log_loss"))
    if score is not None and not by_loss:
        return score
    return None if loss is None else -loss
