"""Prompt format robustness: the winner in other formats, before and after tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cotune.errors import counted
from cotune.evaluate.words import metric_words
from cotune.plain import count_of, ends_of, fields, items, number, one_line
from cotune.report.html.intervals import share_text
from cotune.report.html.markup import data_text, esc, figure, interval_below, percent
from cotune.report.html.plot import Plot, padded, percent_ticks
from cotune.report.html.sections.prompts import PromptFacts, Prompts, Score, read_prompt
from cotune.report.html.sections.record import RunRecord

_SIDES = (("base", "base model", "dot raced", 1.0), ("tuned", "tuned", "dot tuned", 0.0))
_MEASURES = {"min": "worst format", "max": "best format", "range": "range", "sd": "standard deviation"}


def robustness_section(record: RunRecord) -> str:
    """A dot for each format, with the base model above the tuned one, and the spread in numbers."""
    data, formats = _robustness(record), _formats(_robustness(record))
    if not formats:
        why = data.get("skipped")
        reason = f"It was left out: {data_text(one_line(why, 200))}." if why else "It is measured at the end of a run."
        return f"<p class=empty>How the winning prompt does in other formats is not known. {reason}</p>"
    return figure(
        esc(one_line(data.get("sentence") or "The winning prompt in other formats", 400)),
        _dots(record, data, formats) + _table(data),
        "Each dot is the winning prompt in another format (separators, casing, cue, order of parts) "
        f"on {counted(esc(data.get('n', '?')), 'dev row')}; a dashed line marks the prompt as it is, which these rows helped "
        "to choose. Few rows scatter by themselves: the table holds what is left when that is taken away, with 95% intervals. "
        "Tab to a dot and press Enter to read it.",
    )


def with_formats(record: RunRecord, prompts: Prompts) -> Prompts:
    """The prompts, and the winner's other formats with their scores for the panel."""
    data = _robustness(record)
    rows = count_of(data.get("n"))
    more: dict[str, PromptFacts] = {}
    for prompt, scores in _formats(data):
        base, tuned = (
            Score(score, rows, 0, name, score, steps=steps, stage="robustness")
            for (_, name, _, _), score, steps in zip(_SIDES, scores, (0, 1), strict=True)
        )
        parents = (prompts.winner,) if prompts.winner else ()
        more[prompt.id] = PromptFacts(prompt, "format", "another format", parents, 0, raced=[base], tuned=[tuned])
    return replace(prompts, by_id={**more, **prompts.by_id})


def _robustness(record: RunRecord) -> Mapping[str, Any]:
    return fields(record.summary.get("robustness")) or record.value("robustness")


def _formats(data: Mapping[str, Any]) -> list[tuple[Any, tuple[float, float]]]:
    """Prompt of each format with its scores on the base model and the tuned one."""
    base, tuned = (items(fields(data.get(side)).get("scores")) for side, *_ in _SIDES)
    shown = []
    for item, *scores in zip(items(data.get("prompts")), base, tuned, strict=False):
        prompt, both = read_prompt(item), ends_of(scores)
        if prompt is not None and both is not None:
            shown.append((prompt, both))
    return shown


def _dots(record: RunRecord, data: Mapping[str, Any], formats: list[tuple[Any, tuple[float, float]]]) -> str:
    own = fields(data.get("own"))
    ends = [score for _, scores in formats for score in scores]
    ends += [score for side, *_ in _SIDES if (score := number(own.get(side))) is not None]
    span = padded(ends, share=0.08, least=0.1)
    plot = Plot(span, (-0.6, 1.6), height=150, label="Score of each format: base model above, tuned below")
    plot.axes(percent_ticks(span), [(level, side) for side, _, _, level in _SIDES])
    rows = count_of(data.get("n"))
    middle = (len(formats) - 1) / 2
    for place, (side, name, kind, level) in enumerate(_SIDES):
        if (score := number(own.get(side))) is not None:
            plot.line((score, level - 0.42), (score, level + 0.42), "from")
        for number_, (prompt, scores) in enumerate(formats):
            # Formats often have equal scores, so each has its own height.
            height = level + 0.6 * (middle - number_) / max(1, len(formats))
            shown = f"{name}: {share_text(scores[place], rows, record.dev_interval(scores[place], rows))}"
            text = one_line(prompt.text.replace("\n", " ⏎ "), 160)
            where = f"format {number_ + 1}, {shown}: open its wording"
            plot.dot((scores[place], height), kind, tip=f"{shown}\n{text}", prompt=prompt.id, name=where)
    return plot.render(x_title=f"{esc(metric_words(record.metric))} in percent on dev")


def _table(data: Mapping[str, Any]) -> str:
    lines = []
    for name, title in _MEASURES.items():
        cells = ""
        for side, *_ in _SIDES:
            measure = fields(fields(data.get(side)).get(name))
            cells += f"<td>{percent(measure.get('value'))}{interval_below(measure.get('ci'))}</td>"
        lines.append(f"<tr><th scope=row>{title}</th>{cells}</tr>")
    heads = "".join(f"<td>{name}</td>" for _, name, _, _ in _SIDES)
    return f"<table class=facts><tr><th></th>{heads}</tr>{''.join(lines)}</table>"
