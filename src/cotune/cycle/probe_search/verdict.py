"""The first verdict: the result of the first race, reported and saved as a usable bundle long before the run ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.confirm import save_readout
from cotune.cycle.probe_search.splits import labelled_rows, splits_of
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Fitted, Trials
from cotune.cycle.references import labelled_tfidf
from cotune.cycle.search.save import save_candidate
from cotune.errors import counted
from cotune.evaluate.decision import BY_PROBE
from cotune.evaluate.stats.intervals import proportion_interval
from cotune.task.example import Example, groups_of

_TOLD = ("score", "ci", "n", "log_loss", "layer", "seconds")
"""Values that the bundle's metrics keep."""


def first_verdict(context: RunContext, search: LabelSearch, trials: Trials, bundle: Path, model_name: str) -> dict[str, Any]:
    """Fit the best frozen prompt's probe, save it as the run's bundle, and report it; a ``verdict`` step.

    The probe learns from all labelled rows, from those that a teacher labelled, and from names of labels if these are used.
    With names it is judged on the rows held out from the search's splits, as cross-fitting leaves names out. If the run uses
    TF-IDF, so does this read-out.

    Args:
        context: context of the run.
        search: the search after its first race.
        trials: fits probes.
        bundle: folder of the run's bundle.
        model_name: the user's name of the model.
    """
    fit, named = search.best_frozen, search.named
    both = None if named is not None else trials.with_tfidf(fit)
    rows = labelled_rows(context)
    made = trials.frozen(fit, (*rows, *search.written))
    mix = trials.cross_fitted_mix(fit) if named is None else named.mix
    adapter = save_readout(context, made, mix, "verdict")

    def effect() -> dict[str, Any]:
        correct, judged, log_loss = fit.found.best.correct, fit.rows, fit.mean
        if both is not None:
            correct, judged, log_loss = both.correct, both.rows, float(both.losses.mean())
        elif named is not None:
            correct, judged, log_loss = named.correct[named.counts], tuple(_held(context, named)), named.mean
        low, high = accuracy_interval(correct, judged)
        tfidf = labelled_tfidf(context, rows)
        told = {
            "seconds": round(context.journal.clock(), 1),
            "score": round(float(correct.mean()), 6),
            "ci": [round(low, 6), round(high, 6)],
            "n": len(correct),
            "log_loss": round(log_loss, 6),
            "prompt_id": fit.prompt.id,
            "adapter_id": adapter,
            "layer": fit.found.layer,
            "label_names": named is not None,
            "with_tfidf": made.terms is not None and mix.share > 0,
            "tfidf": None if tfidf is None else round(tfidf[0], 6),
            "tfidf_rows": None if tfidf is None else tfidf[1],
        }
        _save(context, made, adapter, bundle, model_name, {"first_verdict": told})
        return {**told, "text": sentence(told)}

    value: dict[str, Any] = context.journal.step("verdict", [fit.prompt.id, adapter], effect)
    return value


def better_bundle(
    context: RunContext, evidence: Evidence, before: Evidence | None, bundle: Path, model_name: str
) -> dict[str, Any]:
    """Save tuned weights as the run's bundle, so that a run that ends early leaves its best result; a ``better`` step.

    Args:
        context: context of the run.
        evidence: the weights and their results.
        before: results of the present bundle; told beside the new ones if they are of as many splits.
        bundle: folder of the run's bundle.
        model_name: the user's name of the model.
    """
    made = evidence.first
    adapter = save_readout(context, made, evidence.mix, "better")

    def effect() -> dict[str, Any]:
        low, high = accuracy_interval(evidence.correct[evidence.counts], _held(context, evidence))
        told = {
            "seconds": round(context.journal.clock(), 1),
            "score": round(evidence.score, 6),
            "ci": [round(low, 6), round(high, 6)],
            "n": int(evidence.counts.sum()),
            "log_loss": round(evidence.mean, 6),
            "prompt_id": made.prompt.id,
            "adapter_id": adapter,
            "layer": made.layer,
        }
        _save(context, made, adapter, bundle, model_name, {"held_out": told})
        if before is None or len(before.correct) != len(evidence.correct):
            return told
        both = evidence.counts & before.counts
        score, log_loss = (round(float(values[both].mean()), 6) for values in (before.correct, before.losses))
        return {**told, "before": {"score": score, "log_loss": log_loss}}

    value: dict[str, Any] = context.journal.step("better", [made.prompt.id, adapter], effect)
    return value


def _held(context: RunContext, evidence: Evidence) -> list[Example]:
    """The held-out rows that count for evidence: of all splits, or of the first alone."""
    rows = [row for split in splits_of(context) for row in split.held]
    return [row for row, counts in zip(rows, evidence.counts, strict=False) if counts]


def accuracy_interval(correct: NDArray[np.float64], rows: Sequence[Example]) -> tuple[float, float]:
    """95% interval of an accuracy on held-out rows: Wilson's, by groups if there are any.

    A row that several draws of the folds judged counts by the share of draws that were right, as in the accuracy.
    """
    found = proportion_interval(correct, groups=groups_of(rows))
    return float(found.low), float(found.high)


def sentence(told: dict[str, Any]) -> str:
    """The verdict in words."""
    low, high = told["ci"]
    other = told["tfidf_rows"] is not None and told["tfidf_rows"] != told["n"]
    on = f" on {counted(told['tfidf_rows'], 'labelled row')}" if other else ""
    beside = "" if told["tfidf"] is None else f"; TF-IDF with logistic regression {told['tfidf']:.2f}{on}"
    rows = counted(told["n"], "labelled row")
    added = " with TF-IDF added" if told["with_tfidf"] else ""
    judged = f"on {rows} held out, by a probe that learns from names of labels too," if told["label_names"] else ""
    return (
        f"after {told['seconds']:.0f} s: {told['score']:.2f} ({low:.2f} to {high:.2f}), "
        f"{judged or f'cross-fitted on {rows}, by a probe'} on the state after layer {told['layer']}{added}{beside}"
    )


def _save(
    context: RunContext, made: Fitted, adapter: str, bundle: Path, model_name: str, told: dict[str, dict[str, Any]]
) -> None:
    metrics = {kind: {name: value[name] for name in _TOLD} for kind, value in told.items()}
    save_candidate(context, Candidate(made.prompt, adapter, BY_PROBE, made.steps), bundle, metrics, model_name)
