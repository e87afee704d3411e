"""What a run reached beside the references, and whether a language model was needed for it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.report.terminal.narration import REFERENCE_NAMES
from cotune.report.terminal.plain import decimal, fields, items, number, p_value, shipped, signed

_ALPHA = 0.05


def result_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The score that ships beside the references, then whether a language model was needed; empty where there are none.

    Args:
        summary: as ``summary.json`` holds it; of ``references`` any may be missing or null.
    """
    arm = shipped(summary)
    references = references_of(summary)
    if number(arm.get("score")) is None or not references:
        return []
    metric = str(summary.get("metric") or "score").replace("_", " ")
    interval = f" (95% interval {decimal(ends[0])} to {decimal(ends[1])})" if (ends := interval_of(arm)) else ""
    beside = ", ".join(f"{REFERENCE_NAMES[name]} {decimal(one.get('score'))}" for name, one in references.items())
    lead = (
        f"{metric[:1].upper()}{metric[1:]} {decimal(arm['score'])} on {decimal(arm.get('n'), 0)} test rows{interval}; {beside}."
    )
    needed = _needed(arm, references.get("tfidf"))
    return [lead, *([needed] if needed else [])]


def references_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The references that have a score, the one that matters most first."""
    found = fields(summary.get("references"))
    return {
        name: fields(found.get(name)) for name in REFERENCE_NAMES if number(fields(found.get(name)).get("score")) is not None
    }


def frozen_first(summary: Mapping[str, Any]) -> bool:
    """Whether what the prompt gains on frozen weights is told before what tuning gains: where probes read all arms."""
    return fields(fields(summary.get("arms")).get("seed_prompt")).get("readout") == "probe"


def interval_of(measured: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of an interval; None where one is not known."""
    low, high = ([*map(number, items(measured.get("ci"))), None, None])[:2]
    return None if low is None or high is None else (low, high)


def _needed(arm: Mapping[str, Any], tfidf: Mapping[str, Any] | None) -> str:
    if tfidf is None:
        return "Whether a language model was needed is not known: TF-IDF could not be fitted to these rows."
    compared = fields(tfidf.get("difference"))
    value, p, ends = number(compared.get("value")), number(compared.get("p")), interval_of(compared)
    if value is None or p is None or ends is None:
        return _by_intervals(interval_of(arm), interval_of(tfidf))
    points = f"{abs(100 * value):.1f} points more rows right"
    how = f"95% interval {signed(100 * ends[0])} to {signed(100 * ends[1])}, paired, {p_value(p)}"
    if p >= _ALPHA:
        return (
            "These rows do not show that a language model was needed: its answers and those of TF-IDF differ by "
            f"{signed(100 * value)} points ({how})."
        )
    if value > 0:
        return f"A language model was needed: it answers {points} than TF-IDF ({how})."
    return f"No language model was needed: TF-IDF answers {points} ({how}, this model minus TF-IDF)."


def _by_intervals(mine: tuple[float, float] | None, other: tuple[float, float] | None) -> str:
    """Whether the model was needed, by whether the two intervals overlap; nothing where one is not known."""
    if mine is None or other is None:
        return ""
    if other[1] < mine[0]:
        return "A language model was needed: the interval of TF-IDF lies below."
    if other[0] > mine[1]:
        return "No language model was needed: the interval of TF-IDF lies above."
    return "These rows do not show that a language model was needed: the interval of TF-IDF overlaps."
