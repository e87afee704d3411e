"""Judging of prompts on held-out rows, frozen and tuned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.fits import PromptFit, usable_places
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.readouts.tfidf import Mixed, Tfidf
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Fitted, Trials, TuningRequest
from cotune.cycle.search.measured import Measured
from cotune.errors import DivergedError
from cotune.evaluate.decision import BY_PROBE
from cotune.model.adapters.slots import BASE
from cotune.probe.fields import by_row, row_correct, row_losses
from cotune.refine import not_shown


class HeldOutJudge:
    """Judges prompts on held-out rows: a read-out learns from a part of each split and answers the rest.

    A tuning leaves the budget that the end needs by ``prices``.
    """

    def __init__(self, trials: Trials, prices: Prices, previous: Previous | None = None) -> None:
        self._context, self._embedding, self._trials = trials.context, trials.embedding, trials
        self._prices, self._previous = prices, previous

    def frozen(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split] | None = None) -> Evidence:
        """How a prompt's frozen probe does on the held-out rows of splits; None takes those of the search.

        Temperature and share of TF-IDF are those of its cross-fitting, which knows no further rows; once these are used, they
        are fitted again.
        """
        splits = search.splits if splits is None else splits
        found = [self._trials.frozen(fit, split.learn) for split in splits]
        return self._evidence(search, fit, found, splits, tempers=bool(search.written))

    def with_tfidf(self, search: LabelSearch, fit: PromptFit, tfidf: Tfidf) -> Mixed | None:
        """A prompt's frozen probe with TF-IDF, by cross-fitting; None if TF-IDF cannot be fitted.

        Cross-fitting knows no further rows, so if there are some, both learn from them and are judged on the held-out rows.
        """
        if not search.written:
            return tfidf.cross_fitted(fit)
        learnt = [
            (self._trials.frozen(fit, split.learn), tfidf.weights(split.learn), not_shown(fit.prompt, split.held))
            for split in search.splits
        ]
        rows = [row for _, _, held in learnt for row in held]
        log_probs = np.concatenate([self._trials.log_probs(made, held, "judge") for made, _, held in learnt])
        terms = np.concatenate([terms.logits([row.fields for row in held]) for _, terms, held in learnt])
        return tfidf.mixed(log_probs, terms, rows)

    def tune(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split] | None = None) -> None:
        """Tune a prompt on each split and choose the winner again; nothing is added if a tuning diverged."""
        splits = search.splits if splits is None else splits
        requests, found = self._requests(search, fit, splits), []
        for request in requests:
            self._trials.ahead(request)
        for split, request in zip(splits, requests, strict=True):
            made = self._trials.tune(request)
            if made is None:
                self._trials.cancel_ahead(fit.prompt)
                return
            self._embedding.ahead([fit.prompt], made.adapter, split.held, layers=[made.layer])
            found.append(made)
        if search.of(fit.prompt.id, tuned=False) is None:
            search.evidence.append(self.frozen(search, search.fits.get(fit.prompt.id, fit)))
        with suppress(DivergedError):
            evidence = self._evidence(search, fit, found, splits, epochs=search.epochs, tempers=True)
            cut = any(2 * made.steps < request.steps for made, request in zip(found, requests, strict=True))
            search.evidence.append(replace(evidence, cut=cut))
        search.choose()

    def tune_ahead(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split]) -> None:
        """Let workers tune a prompt on each split for :meth:`tune`; does nothing without workers."""
        for request in self._requests(search, fit, splits):
            self._trials.ahead(request)

    def _requests(self, search: LabelSearch, fit: PromptFit, splits: Sequence[Split]) -> list[TuningRequest]:
        """The tunings of a prompt, one for each split."""
        # The seed prompt is always tuned from the base model, to show the gain.
        start = self._previous.ground if self._previous and fit.prompt.id != search.seed.prompt.id else BASE
        keep, seed, layers = self._prices.owed(search, fit), self._context.seed, [self._trials.layer(fit)]
        keep += sum(self._embedding.row_cost(fit.prompt, len(split.held), layers=layers) for split in splits)
        sized = [(split.learn, self._trials.steps_of(search.epochs, len(split.learn))) for split in splits]
        return [TuningRequest(fit, rows, steps, "tune", seed, start=start, keep=keep) for rows, steps in sized]

    def _evidence(
        self,
        search: LabelSearch,
        fit: PromptFit,
        found: Sequence[Fitted],
        splits: Sequence[Split],
        *,
        epochs: float = 0.0,
        tempers: bool,
    ) -> Evidence:
        """How read-outs did on the rows held out from each split; a ``tuned`` step.

        Temperature and share of TF-IDF are those of the frozen probe's cross-fitting, unless these rows decide (``tempers``).
        """
        trials = self._trials
        tables = [trials.log_probs(made, split.held, "judge") for made, split in zip(found, splits, strict=True)]
        parts = [trials.term_logits(made, split.held) for made, split in zip(found, splits, strict=True)]
        rows = [row for split in splits for row in split.held]
        choosing, counts = self._context.choosing, np.zeros(len(rows), dtype=np.bool_)
        truth = choosing.targets(rows)
        usable = usable_places(fit.prompt, rows)
        counts[usable] = True
        whole, known = np.concatenate(tables), [part for part in parts if part is not None]
        terms = np.concatenate(known) if known else None
        mix = trials.cross_fitted_mix(fit)
        owners, states = choosing.owners(rows), choosing.states_of(rows, usable)
        if tempers:
            some = None if terms is None else terms[states]
            mix = trials.mix(whole[states], some, truth[states], tuned=epochs > 0)
        log_probs = mix.of(whole, terms)
        correct = by_row(row_correct(log_probs, truth, choosing.sizes), owners)
        asked = (log_probs[states], [rows[place] for place in usable])
        score, interval = choosing.held_out(*asked, correct[counts], trials.cross_fitted_answers(*asked))
        evidence = Evidence(
            fit,
            epochs,
            mix,
            by_row(row_losses(log_probs, truth), owners),
            correct,
            counts,
            found[0],
            score,
            interval,
            log_probs[choosing.states_of(rows, np.arange(len(splits[0].held)))],
        )
        self._context.journal.step(
            "tuned",
            [fit.prompt.id, found[0].adapter, epochs],
            lambda: {
                "cycle": len(search.cycles) + 1,
                "stage": "tune" if epochs else "frozen",
                "prompt_id": fit.prompt.id,
                "adapter_id": found[0].adapter,
                "steps": found[0].steps,
                "layer": found[0].layer,
                "readout": "probe",
                "temperature": round(mix.temperature, 4),
                **({"tfidf_share": mix.share} if terms is not None else {}),
                "decision": "probe",
                "score": round(evidence.score, 6),
                "log_loss": round(evidence.mean, 6),
                "rows": int(counts.sum()),
            },
        )
        return evidence


def measured_on_dev(context: RunContext, adapter: str, made: Fitted, evidence: Evidence) -> Measured:
    """Weights as a candidate, with the dev outputs of its evidence."""
    given = context.choosing.outputs(evidence.dev_log_probs, context.dev, evidence.first.probe.chain)
    candidate = Candidate(made.prompt, adapter, BY_PROBE, made.steps)
    return Measured(candidate, context.answers.judge(given, context.dev, BY_PROBE), given)
