"""A run's result next to the references, whether a language model was needed, and warnings on the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.errors import counted
from cotune.evaluate.frozen_arms import ALPHA
from cotune.evaluate.words import REFERENCE_NAMES, capitalised, difference_text, metric_words, uncertainty_text
from cotune.plain import aside, between, decimal, ends_of, fields, number, one_line, shipped

_FEW_ROWS, _WIDE = 30, 0.3
"""Fewer test rows, or a wider interval, make a score unreliable."""
_ENOUGH_ROWS = 100
"""Recommended number of test rows."""
_MORE_ROWS = "Label more rows for the test: four times as many about halve the interval."
_SKEWED, _NEARLY_ALL = 0.8, 0.995


def result_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on the bundle's score next to results without tuning, and on whether a language model was needed.

    Args:
        summary: as ``summary.json`` holds it; any of its ``references`` may be missing or null.
    """
    arm = shipped(summary)
    references = references_of(summary)
    if number(arm.get("score")) is None:
        return []
    metric = metric_words(summary.get("metric"))
    interval = f" (95% interval {between(ends)})" if (ends := interval_of(arm)) else ""
    untuned = references.get("zero_shot")
    name = "untuned" if untuned is None else REFERENCE_NAMES["zero_shot"]
    scores = {name: _untuned(summary), **{_SHORT[name]: references.get(name) for name in _SHORT}}
    beside = [
        f"{name} {decimal(one.get('score'))}{of_other_rows(one, arm)}"
        for name, one in scores.items()
        if one is not None and one is not arm
    ]
    rows = counted(decimal(arm.get("n"), 0), "test row")
    lead = f"{capitalised(metric)} {decimal(arm['score'])} on {rows}{interval}"
    needed = _needed(arm, references.get("tfidf")) if references else ""
    return [f"{lead}{'; ' if beside else ''}{', '.join(beside)}.", *([needed] if needed else [])]


def of_fewer_rows(one: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """A note `` (on 300 of them)`` if something was measured on fewer rows than an arm; else empty."""
    rows, all_rows = number(one.get("n")), number(arm.get("n"))
    return f" (on {rows:.0f} of them)" if rows is not None and all_rows is not None and rows < all_rows else ""


def of_other_rows(one: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """Notes on a reference: fewer test rows than the arm, or more labelled rows for fitting."""
    learnt = number(one.get("learnt_from"))
    return f" (fitted to {counted(f'{learnt:,.0f}', 'labelled row')})" if learnt else of_fewer_rows(one, arm)


_SHORT = {"tfidf": "TF-IDF", "majority": "always the commonest label"}


def _untuned(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The seed prompt's result before anything is fitted to rows: by label words, or by generated answers."""
    seed = fields(fields(summary.get("arms")).get("seed_prompt"))
    # A probe is fitted to the labelled rows, even on the base model's weights.
    result = references_of(summary).get("zero_shot") or ({} if seed.get("readout") == "probe" else seed)
    return result if number(result.get("score")) is not None else None


def result_title(summary: Mapping[str, Any]) -> str:
    """The score in short, such as ``accuracy 0.640 (0.571 to 0.703)``; empty without a score."""
    arm = shipped(summary)
    if number(arm.get("score")) is None:
        return ""
    metric = metric_words(summary.get("metric"))
    return f"{metric} {decimal(arm['score'])}{aside(between(interval_of(arm)))}"


def result_warnings(summary: Mapping[str, Any]) -> list[str]:
    """Warnings on the score: few test rows, a label that nearly all rows have, or TF-IDF that is as good.

    Args:
        summary: as ``summary.json`` holds it.
    """
    arm, references = shipped(summary), references_of(summary)
    score, n, ends = number(arm.get("score")), number(arm.get("n")), interval_of(arm)
    if score is None or n is None:
        return []
    warnings = []
    width = 0.0 if ends is None else ends[1] - ends[0]
    if n < _FEW_ROWS or width > _WIDE:
        spans = f": the 95% interval of the score spans {100 * width:.0f} points" if ends else ""
        more = f"Label more rows, {_ENOUGH_ROWS} for the test at least." if n < _ENOUGH_ROWS else _MORE_ROWS
        given = number(fields(summary.get("given")).get("test"))
        if given is not None and n < given:
            more = f"{n:,.0f} of {given:,.0f} were scored, as the budget had room for no more; a larger --budget scores more."
        warnings.append(f"{counted(int(n), 'test row')} {'is' if n == 1 else 'are'} too few to judge by{spans}. {more}")
    majority = number(fields(references.get("majority")).get("score"))
    by_accuracy = summary.get("metric") == "accuracy"
    if by_accuracy and majority is not None and (majority >= _SKEWED or majority >= score):
        label = fields(references.get("majority")).get("label")
        says = f"say {one_line(label, 40)!r}" if isinstance(label, str) else "have the commonest label"
        as_good = ", and always answering so is as good as this result" if majority >= score else ""
        warnings.append(
            f"{100 * majority:.0f}% of the test rows {says}{as_good}. Accuracy hides how the rarer labels fare: "
            "metric=macro_f1 weighs all labels alike."
        )
    tfidf = number(fields(references.get("tfidf")).get("score"))
    if tfidf is not None and tfidf >= _NEARLY_ALL:
        warnings.append(
            f"TF-IDF reaches {tfidf:.2f} without a language model, so there is nothing for one to gain on these rows."
        )
    return warnings


def references_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The references with a score, the most important one first."""
    references = fields(summary.get("references"))
    return {
        name: fields(references.get(name))
        for name in REFERENCE_NAMES
        if number(fields(references.get(name)).get("score")) is not None
    }


def interval_of(measured: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of an interval; None if one is not known."""
    return ends_of(measured.get("ci"))


def _needed(arm: Mapping[str, Any], tfidf: Mapping[str, Any] | None) -> str:
    if tfidf is None:
        return "Whether a language model was needed is not known: TF-IDF could not be fitted to these rows."
    compared = fields(tfidf.get("difference"))
    value, p, ends = number(compared.get("value")), number(compared.get("p")), interval_of(compared)
    if value is None or p is None or ends is None:
        return _by_intervals(interval_of(arm), interval_of(tfidf))
    points = f"{abs(100 * value):.1f} points more rows right"
    how = uncertainty_text(ends, p, "paired")
    if p >= ALPHA:
        return (
            "These rows do not show that a language model was needed: its answers and those of TF-IDF differ by "
            f"{difference_text(value)} points ({how})."
        )
    if value > 0:
        return f"A language model was needed: it answers {points} than TF-IDF ({how})."
    return f"No language model was needed: TF-IDF answers {points} ({how}, this model minus TF-IDF)."


def _by_intervals(mine: tuple[float, float] | None, other: tuple[float, float] | None) -> str:
    """Whether the model was needed, by whether two intervals overlap; empty if one is not known."""
    if mine is None or other is None:
        return ""
    if other[1] < mine[0]:
        return "A language model was needed: the interval of TF-IDF lies below."
    if other[0] > mine[1]:
        return "No language model was needed: the interval of TF-IDF lies above."
    return "These rows do not show that a language model was needed: the interval of TF-IDF overlaps."
