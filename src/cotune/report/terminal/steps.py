"""Sentences for events that need no earlier events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cotune.errors import counted
from cotune.plain import amount, decimal, duration, ends_of, fields, items, number, one_line
from cotune.report.terminal.result import noise_sentence

Value = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line about an event.

    Attributes:
        text: the line, safe for a terminal.
        level: ``verdict`` for results, ``news`` for notable events, ``failure`` for errors, else ``note``.
    """

    text: str
    level: str = "note"
    best: bool = False


def _engine(value: Value) -> list[Line]:
    speed = number(value.get("tokens_per_s"))
    if value.get("way") is not None:
        rate = "" if speed is None else f" with about {amount(speed)} tokens a second"
        return [Line(f"the endpoint answers{rate}")]
    rate = f", {number(value['gemm_gflops']):.0f} GFLOP/s" if number(value.get("gemm_gflops")) else ""
    threads = f" in {counted(int(count), 'thread')}" if (count := number(value.get("threads"))) else ""
    kind = " ".join(one_line(value[key], 30) for key in ("device", "dtype") if value.get(key))
    return [Line(f"computing with {kind or 'this machine'}{threads}{rate}")]


def _neighbours(value: Value) -> list[Line]:
    if skipped := str(value.get("skipped") or ""):
        # The page gives the reason why it was skipped.
        failed = skipped.startswith("it failed")
        return [Line(f"data: paraphrases were not looked for: {one_line(skipped, 160)}")] if failed else []
    findings = [fields(finding) for finding in items(value.get("findings"))]
    # The others are on the page.
    shown = [f for f in findings if f.get("severity") == "warning" or f.get("kind") == "same_meaning_with_test"] or findings[:1]
    messages = [one_line(finding.get("message"), 300) for finding in shown]
    if len(findings) > len(shown):
        messages[-1] += "; the report lists more"
    none = f"none of the {one_line(value.get('pairs'), 12)} closest pairs of rows are paraphrases"
    return [Line(f"data: {text}") for text in messages or [none]]


def _decide(value: Value) -> list[Line]:
    why, step = one_line(value.get("why") or "", 200), one_line(value.get("next") or "?", 60)
    step = _STEPS.get(step, f"next: {step}")
    return [Line(f"{step}: {why}" if why else step)]


_STEPS = {"prompts": "next: new prompts", "tune": "next: more tuning", "finish": "finishing"}


def _noise(value: Value) -> list[Line]:
    if value.get("skipped"):
        return [Line(f"noise of this machine not measured: {one_line(value['skipped'], 160)}")]
    return [Line(f"noise of this machine: {noise_sentence(value)}")]


def _robustness(value: Value) -> list[Line]:
    if value.get("skipped"):
        return [Line(f"other formats of the winning prompt not tried: {one_line(value['skipped'], 160)}")]
    return [Line(one_line(value.get("sentence") or "other formats of the winning prompt were tried", 400), "news")]


def _slices(value: Value) -> list[Line]:
    if value.get("skipped"):
        return [Line(f"{cycle_of(value)}no error slices: {one_line(value['skipped'], 160)}")]
    slices = [fields(item) for item in items(value.get("slices"))]
    names = "; ".join(one_line(", ".join(map(str, items(s.get("words")))) or "?", 40) for s in slices[:3])
    head = f"{cycle_of(value)}{one_line(value.get('failures'), 12)} of {counted(value.get('rows'), 'dev row')} wrong"
    return [Line(f"{head}, {counted(len(slices), 'error slice')}" + (f": {names}" if names else ""))]


def _rewrite(value: Value) -> list[Line]:
    if value.get("failed"):
        return [Line(f"{cycle_of(value)}the proposer returned nothing: {one_line(value['failed'], 240)}", "failure")]
    if value.get("skipped"):
        return [Line(f"{cycle_of(value)}the proposer was not asked: {one_line(value['skipped'], 160)}")]
    taken, refused = len(items(value.get("proposals"))), len(items(value.get("refused")))
    spent = f"{amount(value.get('tokens'))} tokens"
    if value.get("requests"):
        spent = f"{counted(value.get('requests'), 'request')}, {spent}"
    return [Line(f"{cycle_of(value)}the proposer wrote {counted(taken, 'instruction')}, {refused} refused ({spent})")]


def _teach(value: Value) -> list[Line]:
    agreement = fields(value.get("agreement"))
    ends = ends_of(agreement.get("ci"))
    between = f" (95% interval {100 * ends[0]:.0f} to {100 * ends[1]:.0f}%)" if ends else ""
    head = f"the teacher {one_line(value.get('model'), 40)} labelled {counted(len(items(value.get('rows'))), 'row')}"
    agrees, left = "", ""
    if n := agreement.get("n"):
        agrees = f"; it agrees with {one_line(agreement.get('agree'), 12)} of {counted(n, 'labelled row')}{between}"
    if why := value.get("stopped"):
        left = f"; {counted(value.get('unasked'), 'row')} left out, as {one_line(why, 120)}"
    return [Line(f"{head}, {counted(value.get('refused'), 'answer')} fitted nothing{agrees}{left}", "news")]


def _text(value: Value, limit: int = 300) -> list[Line]:
    """The event's own words."""
    return [Line(one_line(value["text"], limit))] if value.get("text") else []


def news(value: Value) -> list[Line]:
    return [Line(line.text, "news") for line in _text(value)]


def _cost(value: Value) -> list[Line]:
    peak = number(value.get("peak_rss_mb"))
    memory = "" if peak is None else f" and {peak / 1024:.1f} GiB of memory at most"
    return [Line(f"this took {duration(value.get('wall_s'))}{memory}")]


def _done(value: Value) -> list[Line]:
    bundle = f", the bundle is in {one_line(value['bundle'], 60)}" if value.get("bundle") else ""
    score = f" with {decimal(value['score'])} on test" if number(value.get("score")) is not None else ""
    return [Line(f"done{score}{bundle}", "news")]


ALONE: dict[str, Callable[[Value], list[Line]]] = {
    "engine": _engine,
    "neighbours": _neighbours,
    "decide": _decide,
    "noise": _noise,
    "robustness": _robustness,
    "slices": _slices,
    "rewrite": _rewrite,
    "teach": _teach,
    "judge": lambda value: [Line(one_line(value.get("sentence") or f"judge: {value.get('model')}", 400))],
    "label_names": _text,
    "tfidf": _text,
    "chain": _text,
    "cost": _cost,
    "done": _done,
    "sample": news,
    "more_test": news,
    "diverged": lambda value: [Line(f"left out: {one_line(value.get('error'), 200)}", "news")],
    "note": lambda value: _text(value, 400),
}
"""Kind of event to the function that words it."""


def cycle_of(value: Value) -> str:
    """The prefix ``cycle 2: ``; empty if an event belongs to no cycle."""
    cycle = number(value.get("cycle"))
    return "" if cycle is None else f"cycle {int(cycle)}: "


def generic(kind: str, value: object) -> str:
    """An event of unknown kind: its kind and short values."""
    shown = "" if value is None else one_line(value, 80)
    if isinstance(value, Mapping):
        shown = one_line(", ".join(f"{key} {_short(item)}" for key, item in value.items() if item is not None), 160)
    return one_line(kind, 40) + (f": {shown}" if shown else "")


def _short(item: object) -> str:
    if isinstance(item, float):
        return f"{item:.4g}"
    if isinstance(item, (list, Mapping)):
        text = json.dumps(item, ensure_ascii=False)
        return text if len(text) <= 40 else f"({len(item)})"
    return one_line(item, 60)
