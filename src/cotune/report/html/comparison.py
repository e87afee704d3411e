"""A page that compares two runs on the same test rows: the difference, each run's bundle, and rows that only one has right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.errors import counted
from cotune.evaluate.frozen_arms import is_frozen
from cotune.evaluate.words import NO_DIFFERENCE, READINGS, capitalised, change_text, gain_outcome, metric_words
from cotune.plain import between, count_of, ends_of, fields, items, number, one_line, shipped, shipped_arm
from cotune.report.html.markup import card, data_text, esc, facts_table, figure, percent, plain_table
from cotune.report.html.plot import difference_row, padded, strip, strip_row, strips
from cotune.report.html.shell import framed
from cotune.report.terminal.verdict_tables import rule_of

_MOST_ROWS = 200
_MOST_CHARACTERS = 400
_SIDES = ("first", "second")


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The page as HTML, from ``RunComparison.for_page``; it loads nothing from the network."""
    main = (
        f'{_about(comparison)}<section id="verdict" aria-label="Verdict">{_verdict(comparison)}</section>'
        f'<section id="ships" aria-label="What ships"><h2>What each run ships</h2>{_ships(comparison)}</section>'
        f'<section id="rows" aria-label="Rows"><h2>Rows that only one run has right</h2>{_rows(comparison)}</section>'
    )
    title = f"{one_line(comparison.get('first'), 60)} and {one_line(comparison.get('second'), 60)} · cotune compare"
    links = {"verdict": "Verdict", "ships": "What ships", "rows": "Rows"}
    source, scripts = "the folders of the two runs", ["panel.js"]
    return framed(title, main, links=links, source=source, data={"prompts": {}}, scripts=scripts)


def _about(comparison: Mapping[str, Any]) -> str:
    tasks = dict.fromkeys(one_line(summary.get("task") or "", 80) for summary in _summaries(comparison))
    names = " and ".join(data_text(task) for task in tasks if task)
    return (
        f'<p class="about">{f"<b>{names}</b> · " if names else ""}{_metric(comparison)} on the same {esc(comparison.get("n"))} '
        f"sealed test rows, paired row by row</p>"
    )


def _metric(comparison: Mapping[str, Any]) -> str:
    return esc(one_line(metric_words(comparison.get("metric")), 40))


def _verdict(comparison: Mapping[str, Any]) -> str:
    difference = number(comparison.get("difference")) or 0.0
    first, second = (data_text(one_line(comparison.get(side), 80)) for side in _SIDES)
    against = "over" if difference >= 0 else "against"
    clear = "" if comparison.get("significant") else f": {NO_DIFFERENCE}"
    remark = f"<p class=remark>{data_text(comparison['remark'])}</p>" if comparison.get("remark") else ""
    return (
        f'<h1 class="headline">{second} {change_text(difference)} {against} {first}{clear}.</h1>{remark}'
        + _scores(comparison)
        + _difference(comparison, difference)
        + _table(comparison)
    )


def _scores(comparison: Mapping[str, Any]) -> str:
    scores = [number(score) or 0.0 for score in items(comparison.get("scores"))]
    intervals = [ends_of(ends) for ends in items(comparison.get("intervals"))]
    low, high = padded([*scores, *(end for ends in intervals if ends for end in ends)], share=0.05, least=0.1)
    span = (max(0.0, low), min(1.0, high))
    lines = []
    for side, score, ends, summary in zip(_SIDES, scores, intervals, _summaries(comparison), strict=True):
        kind = _weights(summary).removesuffix(" model")
        tip = f"{one_line(comparison.get(side), 80)}: {percent(score)}% ({between(ends, percent)})"
        name, drawn = data_text(one_line(comparison.get(side), 60)), strip(span, score, ends, kind, tip=tip)
        beside = f"<span>{between(ends, percent)}</span>"
        lines.append(strip_row(name, esc(_weights(summary)), drawn, percent(score), beside, kind=kind))
    return figure(
        f"The two runs on {counted(esc(comparison.get('n')), 'test row')}",
        strips(lines, span),
        f"{capitalised(_metric(comparison))} in percent with 95% intervals. Hollow: base model. Filled: tuned. Both answer the "
        "same rows, so overlapping intervals can still hide a difference: read the paired one below.",
    )


def _difference(comparison: Mapping[str, Any], difference: float) -> str:
    ends = ends_of(comparison.get("ci"))
    span = padded([0.0, difference, *(ends or ())], share=0.05, least=0.05)
    gain = {**comparison, "value": difference, "within_noise": not comparison.get("significant")}
    reading = READINGS[gain_outcome(gain) or "no difference"]
    line = difference_row("Difference", "second run − first run", gain, span, reading)
    return figure(
        "What the second run gains over the first",
        strips([line], span, signed=True),
        f"In points, paired row by row. Interval: {esc(comparison.get('interval') or 'unknown')}. "
        f"Test: {esc(comparison.get('test') or 'unknown')}. An interval that leaves out zero is a significant difference.",
    )


def _table(comparison: Mapping[str, Any]) -> str:
    alone = {f"right in the {side} run alone": count_of(comparison.get(f"only_{side}_right")) for side in _SIDES}
    rows = {**alone, "right in both or in neither": count_of(comparison.get("n")) - sum(alone.values())}
    table = facts_table([(name, counted(count, "row")) for name, count in rows.items()])
    return f'<div class="cards">{card("Which rows differ", table)}</div>'


def _ships(comparison: Mapping[str, Any]) -> str:
    cards = ""
    for side, summary in zip(_SIDES, _summaries(comparison), strict=True):
        arm, n, best = shipped(summary), fields(summary.get("n")), fields(summary.get("best"))
        rows = {
            "model": one_line(summary.get("model") or "–", 60),
            "budget": one_line(summary.get("budget") or "–", 30),
            "labelled rows": f"{number(n.get('train')) or 0:.0f} train, {number(n.get('dev')) or 0:.0f} dev",
            "weights": _weights(summary),
            "read by": rule_of(arm),
            "optimizer steps": "–" if (steps := number(arm.get("steps"))) is None else f"{steps:.0f}",
        }
        table = facts_table([(name, data_text(value)) for name, value in rows.items()])
        text = best.get("prompt_text")
        prompt = f'<h3>Prompt</h3><pre dir="auto">{esc(text)}</pre>' if isinstance(text, str) and text else ""
        title = data_text(one_line(comparison.get(side), 60))
        cards += figure(title, table + prompt)
    return f'<div class="pair">{cards}</div>'


def _rows(comparison: Mapping[str, Any]) -> str:
    flipped = [fields(row) for row in items(comparison.get("flipped"))]
    if not flipped:
        return "<p class=empty>There is none: each row is right in both runs or in neither.</p>"
    lines = ""
    for row in flipped[:_MOST_ROWS]:
        answers = ""
        for place, answer in enumerate(items(row.get("answers"))):
            kind, sign = ("ok", "✓") if place == row.get("right") else ("no", "✗")
            answers += f'<td class="{kind}">{sign} {data_text(one_line(answer, _MOST_CHARACTERS))}</td>'
        text = " · ".join(one_line(part, _MOST_CHARACTERS) for part in items(row.get("input")))
        lines += (
            f"<tr><td>{data_text(text)}</td><td>{data_text(one_line(row.get('gold'), _MOST_CHARACTERS))}</td>{answers}</tr>"
        )
    cut = f" The first {_MOST_ROWS} of {len(flipped)}." if len(flipped) > _MOST_ROWS else ""
    return figure(
        counted(len(flipped), "row"),
        plain_table(("row", "right answer", "first run", "second run"), lines),
        f"✓ right, ✗ wrong.{cut}",
    )


def _summaries(comparison: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    summaries = [fields(summary) for summary in items(comparison.get("summaries"))]
    return [*summaries, {}, {}][: len(_SIDES)]


def _weights(summary: Mapping[str, Any]) -> str:
    return "base model" if is_frozen(fields(summary.get("arms")), shipped_arm(summary)) else "tuned"
