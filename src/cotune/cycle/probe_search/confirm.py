"""The five arms of a label search: frozen probes and final tuning on all labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.held_out import measured_on_dev
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.readouts.tfidf import Mix
from cotune.cycle.probe_search.splits import labelled_rows
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Fitted, Trials, TuningRequest, readout_of
from cotune.cycle.search.arms import Confirmed, settle
from cotune.cycle.search.measured import Measured, measure_unchanged
from cotune.evaluate.frozen_arms import PREVIOUS
from cotune.model.adapters.slots import BASE
from cotune.task.example import Example


def confirm_labels(
    context: RunContext,
    search: LabelSearch,
    trials: Trials,
    prices: Prices,
    *,
    max_epochs: int,
    previous: Previous | None = None,
) -> Confirmed:
    """Fit the arms to all labelled rows, including a teacher's that are used, and record them.

    The probes of all arms are fitted in the same way, so that arms differ only in prompt and weights. The arms' dev scores come
    from probes and weights that have not seen dev.

    ``max_epochs`` is the maximum for a prompt, over its trial and its final tuning.
    """
    rows = (*labelled_rows(context), *search.written)
    winner = search.winner
    assert winner is not None
    search = final_plan(context, search, prices, winner, len(rows), max_epochs)
    if search.handicap:
        why = (
            "they are tuned further, on all rows"
            if search.last_epochs
            else "on few held-out rows trials look worse than they are"
        )
        context.journal.tell(
            f"tuned weights win although their held-out log-loss is {search.handicap:.2g} higher than the best frozen probe's: "
            + why
        )
    before = [measure_unchanged(context, previous.candidate)] if previous else []
    untuned = [_frozen_evidence(context, search, trials, fit) for fit in (search.seed, search.best_frozen, winner.fit)]
    # The probes learn from all rows; their dev scores are those of probes that learnt from train.
    frozen = {e.fit.prompt.id: _measured(context, trials.frozen(e.fit, rows), e, "final") for e in untuned}
    seed_prompt, prompt_only, best_prompt = (frozen[e.fit.prompt.id] for e in untuned)
    seed_tuned = search.of(search.seed.prompt.id, tuned=True)
    recipe = winner if winner.tuned else search.of(winner.fit.prompt.id, tuned=True) or seed_tuned
    if seed_tuned is not winner and not search.tunes_seed:
        # A trial alone would have learnt from fewer rows than the winner.
        seed_tuned = recipe = None
    tried = seed_tuned
    if tried is None and recipe is not None and search.last_epochs:
        # Without a trial, the seed prompt is tuned by the recipe of the winner and keeps the dev scores of its frozen probe.
        tried = replace(untuned[0], epochs=recipe.epochs, mix=recipe.mix)
    finals = _Finals(context, search, trials, rows)
    keep = prices.test(search, winner.fit, words=search.zero_shot)
    reached: Measured | None = None
    if winner.tuned:
        behind = 0.0
        if tried is not None and search.last_epochs and search.seed.prompt.id != winner.fit.prompt.id:
            behind = prices.final(search.seed, len(rows), search.last_epochs + (search.epochs if seed_tuned is None else 0.0))
        finals.ahead(winner, keep + behind)
        if tried is not None and tried is not winner:
            finals.ahead(tried, keep)
        reached = finals.tuned(winner, keep + behind)
    tuned = reached if tried is None or tried is winner else finals.tuned(tried, keep)
    arms = {
        "seed_prompt": seed_prompt,
        "prompt_only": prompt_only,
        "best_prompt": best_prompt,
        "seed_tuned": seed_prompt if tried is None or tuned is None else tuned,
        "best_tuned": best_prompt if reached is None else reached,
    }
    judged = {id(e): _measured(context, e.first, e, "judged") for e in (winner, *search.evidence)}
    chosen = judged[id(winner)]
    if winner.tuned and reached is None:
        # The final tuning diverged: the winner's prompt ships frozen, with its own held-out answers.
        chosen = _measured(context, untuned[-1].first, untuned[-1], "judged")
    if before:
        arms[PREVIOUS] = before[0]
        if before[0].rank > chosen.rank:
            chosen = arms["best_tuned"] = before[0]
    considered = {m.candidate.id: m for m in (*before, *judged.values(), chosen)}
    return settle(context, arms, list(considered.values()), chosen, whole_test=search.whole_test)


def final_plan(
    context: RunContext, search: LabelSearch, prices: Prices, winner: Evidence, rows: int, max_epochs: int
) -> LabelSearch:
    """Plan the final tuning on all labelled rows: its epochs, and whether the seed prompt is tuned; an ``epochs`` step.

    There are more epochs than planned, up to the heuristic number for the rows, if the search has left budget: the plan assumed
    the final tuning of two prompts and a test of more arms than there may be. If the plan left the seed prompt's tuning out, it
    is done after all if there is ample budget for it after that; if the search took longer than planned, it is left out. Budget
    that neither these nor the measurements after the test need goes into further epochs.

    Returns:
        The search with these.
    """
    planned = search.last_epochs
    if not (planned or search.whole) or (search.tunes_seed and not winner.tuned):
        return search

    def effect() -> dict[str, float | bool]:
        wanted = HEURISTICS.epochs(rows, max_epochs)
        most = HEURISTICS.most_epochs(rows, max_epochs, smooths=context.choosing.smooths)
        room = context.spending.left_within_step()

        def cost(seed: bool, epochs: float) -> float:
            tuned = [winner.fit] * winner.tuned + [search.seed] * seed
            return prices.end(replace(search, tunes_seed=seed), winner.fit, tuned, epochs)

        def extended(epochs: float, most: float, room: float) -> float:
            while winner.tuned and search.epochs + epochs + 0.5 <= most and cost(seed, epochs + 0.5) <= room:
                epochs += 0.5
            return epochs

        # If both no longer fit, the seed prompt's steps would be taken from the winner's, which come first.
        seed = search.tunes_seed and (not winner.tuned or cost(True, planned) <= HEURISTICS.care * room)
        epochs = extended(planned, wanted, room)
        without = cost(False, epochs)
        seed = seed or without + HEURISTICS.seed_margin * (cost(True, epochs) - without) <= room
        if search.whole_test is None:
            # Otherwise test rows that a slow start left out come first.
            epochs = extended(epochs, most, (room - prices.extras()) / HEURISTICS.care)
        return {"epochs": epochs, "planned": planned, "tunes_seed": seed}

    value = context.journal.step("epochs", [winner.fit.prompt.id, search.epochs, planned], effect)
    return replace(search, last_epochs=float(value["epochs"]), tunes_seed=value["tunes_seed"])


def _frozen_evidence(context: RunContext, search: LabelSearch, trials: Trials, fit: PromptFit) -> Evidence:
    """Evidence of a frozen probe, judged on dev now if the search has not done so."""
    if (found := search.of(fit.prompt.id, tuned=False)) is not None:
        return found
    made = trials.frozen(fit, search.splits[0].learn)
    mix = trials.cross_fitted_mix(fit)
    table = mix.of(trials.log_probs(made, context.dev, "judge"), trials.term_logits(made, context.dev))
    best, every = fit.found.best, np.ones(len(fit.rows), dtype=np.bool_)
    asked = (fit.found.log_probs, fit.rows)
    score, interval = context.choosing.held_out(*asked, best.correct, trials.cross_fitted_answers(*asked))
    return Evidence(fit, 0.0, mix, fit.losses, best.correct, every, made, score, interval, table)


@dataclass(frozen=True)
class _Finals:
    """Final tunings of prompts on all labelled rows, each of which must leave a part ``keep`` of the budget."""

    context: RunContext
    search: LabelSearch
    trials: Trials
    rows: Sequence[Example]

    def ahead(self, evidence: Evidence, keep: float) -> None:
        """Let a worker start a prompt's final tuning, if the run has workers."""
        if self.search.last_epochs:
            self.trials.ahead(self._request(evidence, keep))

    def tuned(self, evidence: Evidence, keep: float) -> Measured | None:
        """A tuned prompt, tuned further on all rows from its trial's weights if there is room; None if that diverged.

        The trial has learnt from the train rows of the first split, so no step is repeated. A prompt without a trial takes the
        same number of steps in all. Without room, a trial keeps its weights, and its probe is fitted to all rows.
        """
        made = evidence.first
        if self.search.last_epochs:
            found = self.trials.tune(self._request(evidence, keep))
            if found is None:
                return None
            made = replace(found, steps=found.steps + made.steps)
            if self.search.few:
                # The temperature was fitted to answers of the trial.
                factor = HEURISTICS.temperature_factor(float(evidence.errors.mean()))
                temperature = factor * evidence.mix.temperature
                evidence = replace(evidence, mix=replace(evidence.mix, temperature=temperature))
        elif made.adapter != BASE:
            made = self.trials.refitted(evidence.fit, made, self.rows)
        return _measured(self.context, made, evidence, "final")

    def _request(self, evidence: Evidence, keep: float) -> TuningRequest:
        made, rows = evidence.first, self.rows
        tried = made.adapter != BASE
        steps = self.trials.steps_of(self.search.last_epochs, len(rows))
        if not tried:
            steps += self.trials.steps_of(evidence.epochs, len(self.context.train_sample))
        # With few rows, a head that is refitted to the tuned states may lose what the trial's head has learnt (TREC-6, 64 rows,
        # one draw: 0.64 against 0.73); with many it is better (TREC-6, 500 rows, one draw: 0.913 against 0.907).
        head = made.head if tried and len(rows) < HEURISTICS.few_rows else None
        # The seed makes the order of rows differ from the trial's.
        seed = self.context.seed + 1
        return TuningRequest(evidence.fit, rows, steps, "final", seed, start=made.adapter, head=head, keep=keep)


def _measured(context: RunContext, made: Fitted, evidence: Evidence, stage: str) -> Measured:
    """Weights with the dev scores of their evidence; saved with their read-out, for later measurements on dev."""
    return measured_on_dev(context, save_readout(context, made, evidence.mix, stage), made, evidence)


def save_readout(context: RunContext, made: Fitted, mix: Mix, stage: str) -> str:
    """Save weights with their read-out in the run's folder; returns the id of both together; a ``probe`` step."""
    probe = readout_of(made, mix)
    folder, adapters = context.folder / "adapters", context.model.adapters

    def effect() -> dict[str, object]:
        return {
            "stage": stage,
            "prompt_id": made.prompt.id,
            "weights": made.adapter,
            "layer": made.layer,
            "temperature": round(mix.temperature, 4),
            **({} if probe.terms is None else {"tfidf_share": mix.share}),
            "adapter_id": adapters.add_probe(made.adapter, probe, folder),
        }

    value = context.journal.step("probe", [stage, made.prompt.id, made.adapter, made.layer], effect)
    adapter = str(value["adapter_id"])
    if not (folder / adapter).is_dir():
        adapters.add_probe(made.adapter, probe, folder)
    adapters.register(folder / adapter)
    return adapter
