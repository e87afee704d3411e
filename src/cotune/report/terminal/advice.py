"""Recommended next steps, from a run's summary."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from cotune.evaluate.frozen_arms import ALPHA, only_winner_tuned
from cotune.evaluate.words import frozen_first
from cotune.plain import count_of, ends_of, fields, items, number, shipped

# Width of an interval above which it says nothing about the gain of the prompt.
_WIDE = 0.06
_FEW_ROWS = 300
_MUCH = 5
"""Factor of the recommended budget if a run used fewer than half of its rows."""
_ALL_RIGHT = 0.995
_RARELY_RIGHT = 0.5
_LEAST_GAIN = 0.002
"""Points of the score, or nats, by which a cycle's winner must beat earlier ones."""
_SAME = re.compile(r"the same command with --budget (\S+)$")
_ONCE = ("--finish", "--cut-journal", "--json", "--quiet", "-q")


def next_steps(summary: Mapping[str, Any]) -> list[str]:
    """All next steps: use the bundle, try your own prompt, and improve the result.

    Besides the keys of ``summary.json``, ``out`` may hold the run's folder, and ``command`` the user's command line.
    """
    stored = [step for step in items(summary.get("next")) if isinstance(step, str) and step.strip()]
    steps, command = stored or improvements(summary), summary.get("command")
    if isinstance(command, str) and command:
        # A damaged folder may hold a command whose quotes do not close.
        with suppress(ValueError):
            steps = [_SAME.sub(lambda found: with_budget(command, found[1]), step) for step in steps]
    return [*_uses(summary), *steps]


def improvements(summary: Mapping[str, Any]) -> list[str]:
    """Steps that would improve the result, the most useful first. A run's summary holds them as ``next``."""
    right, by_tfidf = (
        (number(one.get("score")) or 0.0) >= _ALL_RIGHT
        for one in (shipped(summary), fields(fields(summary.get("references")).get("tfidf")))
    )
    if right and by_tfidf:
        return []
    steps, cut = [], rows_left_out(summary)
    # A schema of type "integer" says that all right answers are whole, such as counts, which can be met exactly.
    fractions = fields(fields(summary.get("output")).get("schema")).get("type") == "number"
    if fractions and summary.get("metric") == "accuracy" and (number(shipped(summary).get("score")) or 0.0) < _RARELY_RIGHT:
        steps.append('An answer counts only if it is exactly the right number; "metric=within 10%" counts numbers near it too.')
    if "test" not in cut and (advice := more_rows(summary)) is not None:
        steps.append(advice)
    length = None if right else number(fields(summary.get("length")).get("row"))
    if cut or length:
        few = any(used < given / 2 for used, given in cut.values())
        left_out = [left_out_text(cut)] if cut else []
        if length:
            begin = "rows" if cut else "Rows"
            left_out.append(f"{begin} were read up to about {length:.0f} tokens, as the budget is small for their length")
        steps.append(f"{'; '.join(left_out)}. Give it a larger budget: {_again(summary, _MUCH if few else 2)}")
    elif not right and any(word in str(summary.get("stopped")) for word in ("budget", "reserved")):
        by_probe = frozen_first(summary)
        gained = still_gaining(items(summary.get("cycles")), by_loss=by_probe)
        where = "held-out rows" if by_probe else "dev"
        why = f"the last cycle still gained on {where}" if gained else "this run ended while there were steps left to take"
        steps.append(f"Give it a larger budget, as {why}: {_again(summary, 2)}")
    learnt = _learnt_from(summary)
    if not right and "labelled" not in cut and learnt is not None and learnt < _FEW_ROWS:
        rows = "1 row was" if learnt == 1 else f"{learnt:.0f} rows were"
        steps.append(f"Only {rows} learnt from; more labelled rows usually gain the most.")
    return steps


def rows_left_out(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Numbers of used and given rows, for ``labelled`` and ``test`` if a run used fewer than it was given."""
    n, given = fields(summary.get("n")), fields(summary.get("given"))
    train, dev, test = (count_of(n.get(split)) for split in ("train", "dev", "test"))
    counts = {name: (used, count_of(given.get(name))) for name, used in (("labelled", train + dev), ("test", test))}
    return {name: (used, every) for name, (used, every) in counts.items() if 0 < used < every}


def left_out_text(cut: Mapping[str, tuple[int, int]]) -> str:
    """``160 of 19,500 labelled rows were used and 30 of 500 test rows scored, as the budget had room for no more``."""
    verbs = {"labelled": "used", "test": "scored"}
    first, *more = [f"{used:,} of {given:,} {name} rows {{}}{verbs[name]}" for name, (used, given) in cut.items()]
    parts = [first.format("were "), *(part.format("") for part in more)]
    return f"{' and '.join(parts)}, as the budget had room for no more"


def _learnt_from(summary: Mapping[str, Any]) -> float | None:
    """Number of labelled rows in the final fit: train and dev with probes, else train."""
    n = fields(summary.get("n"))
    train, dev = number(n.get("train")), number(n.get("dev"))
    return train if train is None or not frozen_first(summary) else train + (dev or 0.0)


def _uses(summary: Mapping[str, Any]) -> list[str]:
    if not fields(summary.get("best")).get("bundle"):
        return []
    path = bundle_path(summary)
    run = path.parent if path.name == "best" else path
    names = [str(name) for name in items(summary.get("input"))]
    given = " ".join(f'--input {shlex.quote(name)}="..."' for name in names) if len(names) > 1 else '--input "..."'
    return [
        f"Use it: cotune predict {shlex.quote(str(run))} {given}",
        f"Try a prompt of your own against it: cotune try {shlex.quote(str(run))}",
        f"See where it errs: cotune view {shlex.quote(str(run))}",
    ]


def _again(summary: Mapping[str, Any], times: int) -> str:
    """A step that multiplies the budget; :func:`next_steps` adds the command if it is known."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", str(summary.get("budget") or ""))
    # Budgets cannot be written with an exponent.
    budget = f"{times * float(match[1]):.15g}{match[2]}" if match else ""
    return f"the same command with --budget {budget}" if budget else f"the same command with {times} times the --budget"


def with_budget(command: str, budget: str) -> str:
    """A ``cotune run`` command with another budget, without options that apply to a single call."""
    words = shlex.split(command)
    kept = [
        word
        for before, word in pairwise(["", *words])
        if "--budget" not in (before, word) and word not in _ONCE and not word.startswith(("--budget=", "budget="))
    ]
    return shlex.join([*kept, "--budget", budget])


def parted(step: str) -> tuple[str, str]:
    """A step's text before the colon and the command behind it; the whole step and an empty text if it has no command."""
    what, colon, command = step.partition(": cotune ")
    return (f"{what}:", f"cotune {command}") if colon else (step, "")


def bundle_path(summary: Mapping[str, Any]) -> PurePath:
    """Path of the bundle, from the summary and its ``out``."""
    return PurePath(str(summary.get("out") or "")) / str(fields(summary.get("best")).get("bundle") or "")


def more_rows(summary: Mapping[str, Any]) -> str | None:
    """Advice to label more rows, if the prompt's gain on top of tuning is not significant and its interval wide.

    If the seed prompt was not tuned, the gain on frozen weights counts.
    """
    alone = only_winner_tuned(fields(summary.get("arms")))
    gain = fields(fields(summary.get("gains")).get("prompt" if alone else "prompt_given_tuning"))
    ends, p = ends_of(gain.get("ci")), number(gain.get("p"))
    # The same prompt on both sides says nothing about another one, however many rows there are.
    if gain.get("identical") or ends is None or ends[1] - ends[0] < _WIDE or (p is not None and p < ALPHA):
        return None
    test = number(fields(summary.get("n")).get("test"))
    rows = f"more than {test:.0f}" if test else "more"
    return (
        f"To know whether the prompt matters here, test on {rows} labelled rows: the interval of its gain is "
        f"{100 * (ends[1] - ends[0]):.0f} points wide, and four times the rows halve it."
    )


def still_gaining(cycles: list[Any], *, by_loss: bool = False) -> bool:
    """Whether the last cycle's winner clearly beats all earlier ones, by the score or, with probes, by the log-loss."""
    levels = [level for level in (_reached(fields(cycle), by_loss) for cycle in cycles) if level is not None]
    return len(levels) > 1 and levels[-1] >= max(levels[:-1]) + _LEAST_GAIN


def _reached(cycle: Mapping[str, Any], by_loss: bool) -> float | None:
    """Held-out measure of a cycle's winner; higher is better."""
    score, loss = number(cycle.get("dev_score")), number(cycle.get("dev_log_loss"))
    if score is not None and not by_loss:
        return score
    return None if loss is None else -loss
