"""Score over seconds for a search by probes: first verdict, cycles, test and references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.errors import counted
from cotune.evaluate.frozen_arms import EVERY_ARM, is_frozen
from cotune.evaluate.words import REFERENCE_NAMES, capitalised, group_of, metric_words
from cotune.plain import aside, between, clock, count_of, fields, number, one_line
from cotune.report.html.markup import figure, legend, percent
from cotune.report.html.plot import Plot, Point, nice_ticks, padded, percent_ticks
from cotune.report.html.sections.prompts import Prompts
from cotune.report.html.sections.record import RunRecord
from cotune.report.terminal.result import interval_of, references_of

_LATE = 0.7


@dataclass(frozen=True)
class Reached:
    """A score and its time.

    Attributes:
        seconds: active seconds since the run began.
        score: held-out score; on the test the metric's.
        kind: ``race``, ``frozen``, ``tuned``, ``verdict`` or ``test``.
        what: description in words.
        base: whether the weights are the base model's.
    """

    seconds: float
    score: float
    kind: str
    what: str
    ci: Point | None = None
    prompt_id: str = ""
    base: bool = True


def read_course(record: RunRecord) -> list[Reached]:
    """All measured points, in order."""
    points: list[Reached] = []
    measure, arms = record.dev_measure, record.arms
    for event in record.events:
        kind, value, at = str(event.get("kind")), fields(event.get("value")), number(event.get("active_s")) or 0.0
        one = fields(value.get("best")) if kind == "race" else value
        score, prompt_id = number(one.get("score")), str(one.get("prompt_id") or "")
        if score is None:
            continue
        layer = number(one.get("layer"))
        after = "" if layer is None else f", read after layer {layer:.0f}"
        rows = count_of(fields(value.get("rows")).get(prompt_id) if kind == "race" else value.get("rows"))
        if kind == "race":
            what = f"best of the race of cycle {value.get('cycle')}{after}"
            points.append(Reached(at, score, "race", what, measure.interval(score, rows), prompt_id))
        elif kind == "verdict":
            points.append(Reached(at, score, "verdict", f"first verdict{after}", interval_of(value), prompt_id))
        elif kind == "tuned":
            steps = count_of(value.get("steps"))
            weights, what = ("tuned", f"tuned {counted(steps, 'step')}") if steps else ("frozen", "frozen probe")
            points.append(Reached(at, score, weights, what + after, measure.interval(score, rows), prompt_id, not steps))
        elif kind == "arm" and value.get("name") in EVERY_ARM:
            name = str(value["name"])
            arm = fields(arms.get(name))
            ci = interval_of(arm) or record.test_interval(score, count_of(value.get("n")))
            what = f"test, {group_of(arms, name).title}"
            # An arm that got further test rows counts with all of them.
            points = [one for one in points if one.what != what]
            points.append(Reached(at, score, "test", what, ci, str(arm.get("prompt_id") or ""), is_frozen(arms, name)))
    return points


def seconds_section(record: RunRecord, prompts: Prompts) -> str:
    """The plot; empty if no probe was fitted."""
    course = read_course(record)
    if not record.by_probe or not course:
        return ""
    end = max(number(event.get("active_s")) or 0.0 for event in record.events)
    journal = {str(value.get("name")): value for value in record.values("reference")}
    references = references_of(record.summary) or references_of({"references": journal})
    tested = max((number(one.get("n")) or 0.0 for one in references.values()), default=0.0)
    named = [(f"other h{n}", _reference_text(name, one, tested), one) for n, (name, one) in enumerate(references.items(), 1)]
    levels = [*(one.score for one in course), *(number(one.get("score")) or 0.0 for one in references.values())]
    levels += [level for one in course if one.kind in ("verdict", "test") and one.ci for level in one.ci]
    low, high = padded(levels, share=0.06, least=0.1)
    plot = Plot((0, end * 1.02 or 1), (max(0.0, low), min(1.0, high)), height=320, label="Score by seconds")
    plot.axes([(t, clock(t)) for t in nice_ticks(0, end or 1, 5)], percent_ticks(plot.y_range))
    opened = _test_begins(record, plot)
    for kind, text, one in named:
        level = number(one.get("score")) or 0.0
        plot.path([(0, level), (plot.x_range[1], level)], f"line {kind}", text)
    plot.path(_climb(record, course), "line winner", "the best so far by held-out log-loss")
    for reached in course:
        _draw(plot, reached, prompts)
    measure = record.dev_measure.title
    where = f"{capitalised(measure)} on labelled rows that the fit had not seen."
    if opened:
        metric = "" if record.metric == "accuracy" else f"{metric_words(record.metric)} "
        where = (
            f"Left of the line “test opened”: {measure} on labelled rows that the fit had not seen. Right of it: "
            f"{metric}on the sealed test. These are other rows, so compare within a side."
        )
    caption = (
        f"{where} Bars are 95% intervals. Hollow: frozen weights. Filled: tuned. The large hollow dot is the first verdict, "
        "cross-fitted on all labelled rows; from then on a usable bundle was on disk. Line: the best so far by log-loss on the "
        "rows held out from tuning. The log-loss decides, so the score may fall along the line."
    )
    caption += " Dashed lines: references on the test." if references else _labelled_tfidf(record)
    return figure(
        "Score by seconds",
        plot.render(x_title="time of work", y_title="percent") + legend([(kind, text, "") for kind, text, _ in named]),
        caption,
    )


def _labelled_tfidf(record: RunRecord) -> str:
    score = number(record.value("verdict").get("tfidf"))
    return "" if score is None else f" TF-IDF with logistic regression has {percent(score)} on the labelled rows."


def _reference_text(name: str, reference: Mapping[str, Any], tested: float) -> str:
    """A reference in words, with its number of rows if smaller than ``tested``."""
    interval = aside(between(interval_of(reference), percent))
    rows = number(reference.get("n"))
    some = f" on {counted(int(rows), 'row')}" if rows is not None and rows < tested else ""
    return f"{REFERENCE_NAMES[name]}: {percent(reference.get('score'))}%{interval}{some}"


def _test_begins(record: RunRecord, plot: Plot) -> bool:
    """Draw an upright line where the test was opened; False if it was not."""
    opened = next((number(event.get("active_s")) for event in record.events if event.get("kind") == "open_test"), None)
    if opened is not None:
        plot.line((opened, plot.y_range[0]), (opened, plot.y_range[1]), "zero")
        # Near the right edge there is no room for the name to the right of the dot.
        kind, dx = ("tick y", -6) if opened > _LATE * plot.x_range[1] else ("tick", 6)
        plot.text((opened, plot.y_range[0]), "test opened", kind, dx=dx, dy=-6)
    return opened is not None


def _climb(record: RunRecord, course: list[Reached]) -> list[Point]:
    """The score of the best candidate so far on held-out rows: the first race's best, then each cycle's winner.

    The race's own score is cross-fitted on all labelled rows, so it is not on this line.
    """
    raced = next((one.prompt_id for one in course if one.kind == "race"), "")
    frozen = record.frozen_held_out.get(raced, {})
    score = number(fields(frozen.get("value")).get("score"))
    if score is None:
        return []
    points: list[Point] = [(number(frozen.get("active_s")) or 0.0, score)]
    for event in record.events:
        at, level = number(event.get("active_s")) or 0.0, number(fields(event.get("value")).get("dev_score"))
        if event.get("kind") == "open_test":
            return [*points, (at, points[-1][1])]
        if event.get("kind") == "cycle" and level is not None:
            points += [(at, points[-1][1]), (at, level)]
    return points


def _draw(plot: Plot, one: Reached, prompts: Prompts) -> None:
    facts = prompts.by_id.get(one.prompt_id)
    interval = aside(between(one.ci, percent))
    tip = f"{one.what}: {percent(one.score)}%{interval}\nafter {clock(one.seconds)}" + (f"\n{facts.name}" if facts else "")
    if one.ci and one.kind in ("verdict", "test"):
        plot.line((one.seconds, one.ci[0]), (one.seconds, one.ci[1]), f"whisker {'base' if one.base else 'tuned'}")
    kind = "dot raced" if one.base else "dot tuned"
    radius = {"verdict": 8.0, "test": 5.5, "tuned": 5.5}.get(one.kind, 4.5)
    name = f"{one_line(one.what, 60)}: {percent(one.score)} percent, open its prompt"
    plot.dot((one.seconds, one.score), kind, radius=radius, tip=tip, prompt=one.prompt_id if facts else "", name=name)
