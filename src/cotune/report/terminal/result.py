"""Sentences on a run's result: next to the references and an earlier bundle, warnings, and numerical noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cotune.errors import counted
from cotune.evaluate.frozen_arms import ALPHA
from cotune.evaluate.words import REFERENCE_NAMES, capitalised, difference_text, metric_words, uncertainty_text
from cotune.plain import (
    amount,
    aside,
    between,
    count_of,
    decimal,
    dollars,
    duration,
    ends_of,
    fields,
    harmless,
    items,
    number,
    one_line,
    shipped,
)

_FEW_ROWS, _WIDE = 30, 0.3
"""Fewer test rows, or a wider interval, make a score unreliable."""
_ENOUGH_ROWS = 100
"""Recommended number of test rows."""
_MORE_ROWS = "Label more rows for the test: four times as many about halve the interval."
_SKEWED, _NEARLY_ALL = 0.8, 0.995
_MOST_WARNINGS = 6
_PARTS = {"all": "all rows", "old_labels": "rows of the old labels", "new_labels": "rows of the new labels"}
"""Parts of the test on which previous and new bundle are compared."""


def result_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on the bundle's score next to results without tuning, and on whether a language model was needed."""
    arm, references = shipped(summary), references_of(summary)
    if number(arm.get("score")) is None:
        return []
    metric = metric_words(summary.get("metric"))
    interval = f" (95% interval {between(ends)})" if (ends := interval_of(arm)) else ""
    untuned = REFERENCE_NAMES["zero_shot"] if "zero_shot" in references else "untuned"
    scores = {untuned: _untuned(summary), **{_SHORT[name]: references.get(name) for name in _SHORT}}
    beside = [
        f"{name} {decimal(one.get('score'))}{of_other_rows(one, arm)}"
        for name, one in scores.items()
        if one is not None and one is not arm
    ]
    rows = counted(decimal(arm.get("n"), 0), "test row")
    lead = f"{capitalised(metric)} {decimal(arm['score'])} on {rows}{interval}"
    # Tags of words have no such reference.
    tried = "tfidf" in fields(summary.get("references"))
    needed = _needed(references.get("tfidf")) if references and tried else ""
    return [f"{lead}{'; ' if beside else ''}{', '.join(beside)}.", *([needed] if needed else [])]


def of_other_rows(one: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """A note on a reference if it was fitted to more labelled rows than an arm, or measured on fewer test rows; else empty."""
    if learnt := number(one.get("learnt_from")):
        return f" (fitted to {counted(f'{learnt:,.0f}', 'labelled row')})"
    rows, all_rows = number(one.get("n")), number(arm.get("n"))
    return f" (on {rows:.0f} of the rows)" if rows is not None and all_rows is not None and rows < all_rows else ""


_SHORT = {"tfidf": "TF-IDF", "majority": "always the commonest label", "constant": "always the same answer"}


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
    """Warnings on the score: few test rows, a label that nearly all rows have, or TF-IDF that is as good."""
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
    if summary.get("metric") == "accuracy" and majority is not None and majority >= min(_SKEWED, score):
        label = references["majority"].get("label")
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
    known = {name: fields(fields(summary.get("references")).get(name)) for name in REFERENCE_NAMES}
    return {name: one for name, one in known.items() if number(one.get("score")) is not None}


def interval_of(measured: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of an interval; None if one is not known."""
    return ends_of(measured.get("ci"))


def _needed(tfidf: Mapping[str, Any] | None) -> str:
    if tfidf is None:
        return "Whether a language model was needed is not known: TF-IDF could not be fitted to these rows."
    compared = fields(tfidf.get("difference"))
    value, p = number(compared.get("value")), number(compared.get("p"))
    if value is None or p is None:
        return ""
    points, how = f"{abs(100 * value):.1f} points", uncertainty_text(compared.get("ci"), p, "paired")
    name = compared.get("metric", "accuracy")
    metric = "" if name == "accuracy" else metric_words(name)
    if p >= ALPHA:
        return (
            "These rows do not show that a language model was needed: its answers and those of TF-IDF differ by "
            f"{difference_text(value)} points in {metric or 'the share of right rows'} ({how})."
        )
    if value > 0:
        more = f"its {metric} is {points} higher than that of" if metric else f"it answers {points} more rows right than"
        return f"A language model was needed: {more} TF-IDF ({how})."
    more = f"the {metric} of TF-IDF is {points} higher" if metric else f"TF-IDF answers {points} more rows right"
    return f"No language model was needed: {more} ({how}, this model minus TF-IDF)."


def against_test(optimism: float) -> str:
    """A score on dev next to that on the test: ``8.3 points lower than on the test``."""
    points = f"{100 * abs(optimism):.1f}"
    return "as on the test" if points == "0.0" else f"{points} points {'higher' if optimism > 0 else 'lower'} than on the test"


_COST: dict[str, tuple[str, Callable[[object], str]]] = {
    "wall_s": ("time", duration),
    "tokens_scored": ("tokens scored", amount),
    "tokens_written": ("tokens written", lambda tokens: amount(tokens) if number(tokens) else ""),
    "tokens_trained": ("tokens trained", amount),
    "tokens_embedded": ("tokens embedded", amount),
    "tokens_saved_by_prefix": ("tokens saved by the shared prefix", amount),
    "dollars": ("paid for answers", dollars),
    "peak_rss_mb": ("peak memory", lambda megabytes: f"{(number(megabytes) or 0.0) / 1024:.1f} GiB"),
}


def cost_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and amount of everything that a run spent, as far as it is known."""
    cost = fields(summary.get("cost"))
    facts = [(name, shown(cost[key])) for key, (name, shown) in _COST.items() if number(cost.get(key)) is not None]
    return [(name, text) for name, text in facts if text]


def search_end(summary: Mapping[str, Any]) -> str:
    """A sentence on why the search ended, and how much of a budget of tokens was spent; empty if not known."""
    if not (why := one_line(summary.get("stopped") or "", 300)):
        return ""
    cost, budget = fields(summary.get("cost")), one_line(summary.get("budget") or "", 30)
    tokens = sum(number(cost.get(f"tokens_{kind}")) or 0 for kind in ("scored", "written", "trained", "embedded"))
    spent = f" The run took {amount(tokens)} tokens of its budget of {budget}." if budget.lower().endswith("tok") else ""
    return f"Why the search ended: {why}.{spent}"


def noise_sentence(noise: Mapping[str, Any]) -> str:
    """A sentence on the variation of scores with the batch, from summary or journal; empty if not known."""
    largest, mean, rows = (number(noise.get(name)) for name in ("largest", "mean", "n"))
    flipped = count_of(noise.get("flipped"))
    if rows is not None and "counts" in noise:
        return f"in other batches {flipped} of {counted(int(rows), 'answer')} differ"
    if largest is None or mean is None or rows is None:
        return ""
    return (
        f"in other batches log-probabilities differ by {largest:.2g} at most and {mean:.2g} on average, "
        f"and {flipped} of {counted(int(rows), 'answer')} flip"
    )


def data_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines on truncated rows and on warnings of the data checks; mere notes are shown on the page only."""
    cut = count_of(summary.get("truncated"))
    lines = (
        [f"{counted(cut, 'row')} lost a part of the text under some prompt: longer than the limit (engine.max_tokens)"]
        if cut
        else []
    )
    findings = [fields(item) for item in items(fields(summary.get("data")).get("findings"))]
    warned = [one_line(f.get("message"), 400) for f in findings if f.get("severity") == "warning" and f.get("message")]
    more = len(warned) - _MOST_WARNINGS
    return lines + warned[:_MOST_WARNINGS] + ([f"and {more} more, in the report"] if more > 0 else [])


def previous_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines on previous and new bundle for each part of the test; empty if the run started from no bundle."""
    lines = [
        f"{name} ({part['n']}): {share(part, 'old')} with the old, {share(part, 'new')} with the new, {difference(part)}"
        for name, part in previous_parts(summary)
    ]
    remarks = items(fields(summary.get("previous")).get("remarks"))
    return lines + [harmless(f"{capitalised(str(remark))}.") for remark in remarks]


def previous_parts(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and numbers of each part of the test on which previous and new bundle were compared."""
    parts = fields(fields(summary.get("previous")).get("parts"))
    named = [(name, fields(parts.get(key))) for key, name in _PARTS.items()]
    return [(name, part) for name, part in named if number(part.get("value")) is not None and number(part.get("n"))]


def share(part: Mapping[str, Any], which: str) -> str:
    """The share of right rows in percent."""
    finite = number(part.get(which))
    return "-" if finite is None else f"{100 * finite:.1f}%"


def difference(part: Mapping[str, Any]) -> str:
    """The difference in points with its interval and p-value."""
    return f"{difference_text(part.get('value'))} points ({uncertainty_text(part.get('ci'), part.get('p'))})"
