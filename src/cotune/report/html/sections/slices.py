"""Slices: clusters of the winner's errors, and the prompts that a proposer wrote for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.errors import counted
from cotune.evaluate.words import p_value
from cotune.plain import count_of, fields, items, number, one_line
from cotune.report.html.markup import data_text, esc, figure, interval_below, percent, plain_table, signed_points
from cotune.report.html.measure import DevMeasure
from cotune.report.html.sections.prompts import Prompts, read_prompt
from cotune.report.html.sections.record import RunRecord

_CAPTION = (
    "a slice also holds the right rows that lie as near. It is named by words that its rows say more often than others. Its "
    "error rate and that of all other rows have 95% intervals. "
    "Slices were looked for where failures are, so their rates are too high; p allows for it: how often one as clear would be "
    "found if the same number of failures lay anywhere. Those of most rows, or not clearly worse, are left out."
)


def slices_section(record: RunRecord, prompts: Prompts) -> str:
    """A table of the final slices, and the rewritten prompts if a proposer was used."""
    return _slices(record) + _rewriting(record, prompts)


def _slices(record: RunRecord) -> str:
    slices = fields(record.summary.get("slices")) or record.value("slices")
    rows = "".join(_row(fields(item)) for item in items(slices.get("slices")))
    if not rows:
        reason = "They are looked for at the end of a run."
        if why := slices.get("skipped"):
            reason = f"Not computed: {data_text(one_line(why, 200))}."
        elif "slices" in slices:
            reason = (
                f"Of {esc(slices.get('failures', 'the'))} wrong dev rows none lie together more clearly than chance would have "
                "it: no group of at most half of the rows clearly fails more often than the rest."
            )
        return f"<p class=empty>No error slices. {reason}</p>"
    heads = ("Slice", "Rows", "Wrong", "Others wrong", "Difference", "p")
    title = f"{esc(slices.get('failures', '?'))} of {esc(slices.get('rows', '?'))} dev rows are wrong"
    caption = f"Failures on dev, clustered by {_place(record)}; {_CAPTION}"
    return figure(title, plain_table(heads, rows, kind="slices"), caption)


def _place(record: RunRecord) -> str:
    """The distance by which rows are clustered, in words."""
    if record.value("engine").get("device") != "endpoint":
        return "the base model’s embeddings"
    return "the endpoint’s embeddings" if fields(record.config.get("endpoint")).get("embeddings") else "their letters"


def _row(record: Mapping[str, Any]) -> str:
    words = ", ".join(str(word) for word in items(record.get("words"))) or "(no distinctive words)"
    cases = "".join(_case(fields(item)) for item in items(record.get("examples")))
    examples = f"<details><summary>examples</summary><ul>{cases}</ul></details>" if cases else ""
    rate, size = number(record.get("rate")), number(record.get("n"))
    wrong = f"{round(rate * size)} of {size:.0f}" if rate is not None and size is not None else ""
    p = p_value(record.get("p")) or "–"
    return (
        f"<tr><td><b>{data_text(one_line(words, 120))}</b>{examples}</td><td class=num data-name=Rows>{esc(wrong)}</td>"
        f"<td class=num data-name=Wrong>{percent(record.get('rate'))}{interval_below(record.get('ci'))}</td>"
        f"<td class=num data-name='Others wrong'>{percent(record.get('rest'))}{interval_below(record.get('rest_ci'))}</td>"
        f"<td class=num data-name=Difference>{signed_points(record.get('difference'))}"
        f"{interval_below(record.get('difference_ci'), signed_points)}</td>"
        f"<td class=num data-name=p>{esc(p)}</td></tr>"
    )


def _case(case: Mapping[str, Any]) -> str:
    text = " | ".join(str(value) for value in fields(case.get("input")).values())
    right, answered = data_text(one_line(case.get("right"), 60)), data_text(one_line(case.get("answered"), 60))
    return f"<li>{data_text(one_line(text, 240))} <span class=quiet>{right}, answered {answered}</span></li>"


def _rewriting(record: RunRecord, prompts: Prompts) -> str:
    """The proposer's prompts in each cycle: rejected ones, results of the others, and errors."""
    asked = list(record.values("rewrite"))
    if not asked:
        return ""
    requests, tokens = (sum(count_of(value.get(name)) for value in asked) for name in ("requests", "tokens"))
    lines = "".join(_cycle(value, prompts, record.dev_measure) for value in asked)
    spent = (f"{counted(requests, 'request')}, " if requests else "") + f"{tokens:,} tokens"
    model = one_line(next((value["model"] for value in asked if value.get("model")), "a language model"), 60)
    return figure(
        f"Rewriting by {data_text(model)}",
        plain_table(("Cycle", "Instructions", "On dev"), lines),
        f"{spent}. Instructions that were taken went into the cycle’s pool and were raced like all others.",
    )


def _cycle(value: Mapping[str, Any], prompts: Prompts, measure: DevMeasure) -> str:
    cycle = esc(value.get("cycle", "?"))
    lines = []
    for item in items(value.get("proposals")):
        if (prompt := read_prompt(fields(item).get("prompt"))) is None:
            continue
        facts = prompts.by_id.get(prompt.id)
        best = facts.best(measure) if facts else None
        result = "not raced" if best is None else f"{measure.shown(best.level)} ({counted(best.rows, 'row')})"
        if facts:
            result += ", tuned" if facts.tuned else ", dropped early" if facts.dropped else ""
        lines.append((data_text(one_line(prompt.instruction, 300)), esc(result)))
    for item in map(fields, items(value.get("refused"))):
        why = f"refused: {data_text(one_line(item.get('why'), 200))}"
        lines.append((f"<span class=quiet>{data_text(one_line(item.get('text'), 160))}</span>", why))
    if nothing := value.get("failed") or value.get("skipped"):
        lines.append((f"none: {data_text(one_line(nothing, 300))}", ""))
    elif not lines:
        lines.append(("none", ""))
    return "".join(f"<tr><td>{cycle}</td><td>{what}</td><td>{result}</td></tr>" for what, result in lines)
