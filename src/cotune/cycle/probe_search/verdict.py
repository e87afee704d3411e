"""Bundles that a run saves before its end: that of the first verdict, and later ones that are better on held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.confirm import save_readout
from cotune.cycle.probe_search.splits import labelled_rows
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Fitted, Trials
from cotune.cycle.references import labelled_tfidf
from cotune.cycle.search.arms import save_candidate
from cotune.errors import counted
from cotune.evaluate.decision import BY_PROBE
from cotune.evaluate.stats.intervals import Interval

_KEPT = ("score", "ci", "n", "log_loss", "layer", "seconds")
"""Values that the bundle's metrics keep."""


class EarlyBundles:
    """Saves the best result so far as the run's bundle, so that a run that ends early leaves it.

    Args:
        trials: fits probes.
        bundle: folder of the run's bundle.
        model_name: the user's name of the model.
    """

    def __init__(self, context: RunContext, trials: Trials, bundle: Path, model_name: str) -> None:
        self._context, self._trials, self._bundle, self._model_name = context, trials, bundle, model_name

    def first(self, search: LabelSearch) -> None:
        """Fit the best frozen prompt's probe after the first race, save it, and report it; a ``verdict`` step.

        The probe learns from all labelled rows, from those that a teacher labelled, and from names of labels if these are used.
        With names it is judged on the rows held out from the search's splits, as cross-fitting leaves names out. If the run
        uses TF-IDF, so does this read-out.
        """
        context, trials, fit, named = self._context, self._trials, search.best_frozen, search.named
        both = None if named is not None else trials.with_tfidf(fit)
        rows = labelled_rows(context)
        made = trials.frozen(fit, (*rows, *search.written))
        mix = trials.cross_fitted_mix(fit) if named is None else named.mix
        adapter = save_readout(context, made, mix, "verdict")

        def effect() -> dict[str, Any]:
            tfidf = labelled_tfidf(context, rows)
            if named is not None:
                found = self._facts_of(named, made, adapter)
            else:
                frozen = (fit.found.log_probs, fit.rows, fit.found.best.correct)
                judged = frozen if both is None else (both.log_probs, both.rows, both.correct)
                score, interval = context.choosing.held_out(*judged, trials.cross_fitted_answers(*judged[:2]))
                log_loss = fit.mean if both is None else float(both.losses.mean())
                found = self._facts(made, adapter, score, interval, len(judged[1]), log_loss)
            facts = {
                **found,
                "label_names": named is not None,
                **({"metric": context.task.measure.name} if context.choosing.sizes else {}),
                **({"by_words": True} if context.choosing.reads_words else {}),
                "with_tfidf": made.terms is not None and mix.share > 0,
                "tfidf": None if tfidf is None else round(tfidf[0], 6),
                "tfidf_rows": None if tfidf is None else tfidf[1],
            }
            self._save(made, adapter, "first_verdict", facts)
            return {**facts, "text": sentence(facts)}

        context.journal.step("verdict", [fit.prompt.id, adapter], effect)

    def better(self, search: LabelSearch, evidence: Evidence, before: Evidence | None) -> None:
        """Save a candidate that is better than ``before``, the present bundle's; a ``better`` step.

        With few rows, a trial's weights and probe learnt from two thirds of them, and the probe of the bundle that they replace
        from all. So their probe is fitted to all rows too (docs/probe-measurements.md).
        """
        made = evidence.first
        if evidence.tuned and search.few:
            made = self._trials.refitted(evidence.fit, made, (*labelled_rows(self._context), *search.written))
        adapter = save_readout(self._context, made, evidence.mix, "better")

        def effect() -> dict[str, Any]:
            facts = self._facts_of(evidence, made, adapter)
            self._save(made, adapter, "held_out", facts)
            if before is None or len(before.correct) != len(evidence.correct):
                return facts
            both = evidence.counts & before.counts
            score, log_loss = (round(float(values[both].mean()), 6) for values in (before.correct, before.losses))
            if self._context.choosing.sizes:
                score = round(before.score, 6)
            return {**facts, "before": {"score": score, "log_loss": log_loss}}

        self._context.journal.step("better", [made.prompt.id, adapter], effect)

    def _facts_of(self, evidence: Evidence, made: Fitted, adapter: str) -> dict[str, Any]:
        """The record of a read-out that was judged on the held-out rows of all splits, or of the first alone."""
        rows = int(evidence.counts.sum())
        return self._facts(made, adapter, evidence.score, evidence.interval, rows, evidence.mean)

    def _facts(
        self, made: Fitted, adapter: str, score: float, interval: Interval, rows: int, log_loss: float
    ) -> dict[str, Any]:
        return {
            "seconds": round(self._context.journal.clock(), 1),
            "score": round(score, 6),
            "ci": interval.rounded(),
            "n": rows,
            "log_loss": round(log_loss, 6),
            "prompt_id": made.prompt.id,
            "adapter_id": adapter,
            "layer": made.layer,
        }

    def _save(self, made: Fitted, adapter: str, kind: str, facts: dict[str, Any]) -> None:
        candidate = Candidate(made.prompt, adapter, BY_PROBE, made.steps)
        metrics = {kind: {name: facts[name] for name in _KEPT}}
        save_candidate(self._context, candidate, self._bundle, metrics, self._model_name)


def sentence(facts: dict[str, Any]) -> str:
    """The verdict in words."""
    low, high = facts["ci"]
    other = facts["tfidf_rows"] is not None and facts["tfidf_rows"] != facts["n"]
    on = f" on {counted(facts['tfidf_rows'], 'labelled row')}" if other else ""
    beside = "" if facts["tfidf"] is None else f"; TF-IDF with logistic regression {facts['tfidf']:.2f}{on}"
    rows = counted(facts["n"], "labelled row")
    states = "the states of words" if facts.get("by_words") else "the state"
    added = " with TF-IDF added" if facts["with_tfidf"] else ""
    judged = f"on {rows} held out, by a probe that learns from names of labels too," if facts["label_names"] else ""
    share = f"{facts['metric'] + ' ' if 'metric' in facts else ''}{facts['score']:.2f}"
    return (
        f"after {facts['seconds']:.0f} s: {share} ({low:.2f} to {high:.2f}), "
        f"{judged or f'cross-fitted on {rows}, by a probe'} on {states} after layer {facts['layer']}{added}{beside}"
    )
