"""Measurements on dev rows after the test: the machine's noise, and the winner's dependence on its format.

Neither affects the result. Both are paid from the budget, which reserves their tokens; a measurement without room is left out,
with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from cotune.cycle.budget.spending import untimed
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import FORMATS, LEAST_FORMATS, NOISE, formats_row, noise_row, variants_of
from cotune.cycle.journal import attempt
from cotune.cycle.search.arms import Confirmed
from cotune.cycle.search.measured import Measured
from cotune.errors import CotuneError
from cotune.evaluate.answer_noise import AnswerNoise
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.noise import Noise
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.robustness import robustness
from cotune.evaluate.scoring import Evaluation, finite
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example, groups_of


def measure_noise(context: RunContext, confirmed: Confirmed, *, keep: float = 0.0) -> dict[str, Any]:
    """Let the winner answer the same dev rows in two kinds of batches; recorded as a ``noise`` step.

    ``keep`` is the budget that must be left afterwards, in its unit. Returns the attributes of :class:`Noise` or
    :class:`AnswerNoise` by name, with ``tokens``; or ``skipped`` with the reason.
    """
    candidate = confirmed.chosen.candidate
    if not context.can.likelihoods:
        elsewhere: dict[str, Any] = {"skipped": "the model answers behind an endpoint, one row at a time"}
        context.journal.step("noise", [candidate.id], lambda: elsewhere)
        return elsewhere
    layer = _probe_layer(context, confirmed.chosen)
    own, prefix = noise_row(context, candidate.prompt, tuned=candidate.adapter != BASE, probe_layer=layer)
    priced = (context.spending.costs.alone, len(context.dev), own, prefix, context.spending.left() - keep)
    count = NOISE.rows(*priced)
    rows = context.dev[:count]
    odd = context.answering.odd_rows(count)

    def measure() -> dict[str, Any]:
        if not count:
            return {"skipped": NOISE.why_not(*priced)}

        def told(tokens: int) -> None:
            context.watcher.progress("noise", candidate.prompt.text, tokens)

        asked = (candidate.prompt, candidate.adapter, rows, candidate.decision)
        with context.spending.stopwatch:
            measured = context.answers.by(candidate.own).noise(*asked, odd=odd, progress=told)
        if measured is None:
            return {"skipped": f"it is not measured with the metric {context.task.metric}"}
        found, tokens = measured
        return {**asdict(found), "batch_rows": [count, odd], "tokens": tokens}

    key = [candidate.id, [row.id for row in rows]]

    def record() -> dict[str, Any]:
        return {**attempt(context.journal, measure), **context.spending.stopwatch.taken()}

    value: dict[str, Any] = untimed(context.journal.step("noise", key, record))
    context.spending.account.counts[context.answering.noise_tokens] += int(value.get("tokens", 0))
    return value


def _probe_layer(context: RunContext, *measured: Measured) -> float | None:
    """Mean layer that the candidates' probes read; None if label words are scored."""
    if not context.can.hidden_states:
        return None
    probes = [context.model.adapters.probe(one.candidate.adapter) for one in measured]
    layers = [probe.layer for probe in probes if probe is not None]
    return sum(layers) / len(layers) if len(layers) == len(probes) else None


def noise_of(recorded: dict[str, Any]) -> Noise | AnswerNoise | None:
    """The recorded noise; None if it was not measured."""
    if "skipped" in recorded:
        return None
    if "counts" in recorded:
        return AnswerNoise.from_dict(recorded)
    return Noise(**{name: recorded[name] for name in Noise.__dataclass_fields__})


def measure_robustness(context: RunContext, confirmed: Confirmed, *, wanted: bool = True, keep: float = 0.0) -> dict[str, Any]:
    """Score the winning prompt in other formats, with base and tuned weights; a ``robustness`` step.

    If the arms' probes have learnt from the dev rows, the probes before that are measured, of base and tuned weights alike.
    ``keep`` is the budget that must be left afterwards, in its unit.

    Returns:
        The dict of :meth:`cotune.evaluate.robustness.Robustness.as_dict`, with ``prompts`` (the formats, in the order of the
        scores) and ``own`` (scores of the unchanged prompt on the same rows; None if nothing was written); or ``skipped`` with
        the reason.
    """
    winner, frozen = confirmed.chosen, confirmed.arms.get("best_prompt")
    base = _untuned(context, confirmed)
    prompt = winner.candidate.prompt
    variants = variants_of(context, prompt)
    rows: tuple[Example, ...] = ()
    if not wanted:
        why = "evaluate.robustness is false"
    elif context.answers.grader is not None:
        why = f"the judge would have to grade every row in up to {FORMATS.passes} ways"
    elif winner.candidate.own is not None and winner.candidate.own.output != context.task.output:
        why = "the winner is the unchanged earlier bundle, whose answers are not those of the task"
    elif winner.candidate.adapter == BASE:
        why = "the winner is the base model itself"
    elif frozen is not None and confirmed.winner.candidate.id == frozen.candidate.id:
        why = "nothing is tuned in the winner, so that the same weights would be compared with themselves"
    elif base is None:
        why = "no probe of the winning prompt on the base model was judged on dev"
    elif len(variants) < LEAST_FORMATS:
        why = "the winning prompt has hardly anything that could be formatted in another way"
    else:
        own, prefix = formats_row(context, prompt, variants, probe_layer=_probe_layer(context, base, winner))
        priced = (context.spending.costs, len(context.dev), own, prefix, context.spending.left() - keep)
        rows = context.dev[: FORMATS.rows(*priced)]
        why = "" if rows else FORMATS.why_not(*priced)
    found: dict[str, Any] = {"skipped": why}
    if rows:
        assert base is not None
        found = attempt(context.journal, partial(_over_formats, context, base, winner, variants, rows))
    key = [winner.candidate.id, [p.id for p in variants], [row.id for row in rows]]
    recorded: dict[str, Any] = context.journal.step("robustness", key, lambda: found)
    return recorded


def _untuned(context: RunContext, confirmed: Confirmed) -> Measured | None:
    """The winning prompt on the base model, by a probe that has not learnt from dev if probes answer; None if there is none."""
    winner = confirmed.chosen
    frozen = confirmed.arms.get("best_prompt", winner)
    if frozen.candidate.adapter == BASE:
        return frozen
    weights = context.model.adapters.without_probe
    prompt, others = winner.candidate.prompt, (one for one in confirmed.considered if one is not winner)
    same = (one for one in others if one.candidate.prompt == prompt and one.candidate.own is None)
    return next((one for one in same if weights(one.candidate.adapter) == BASE), None)


def _over_formats(
    context: RunContext, base: Measured, winner: Measured, variants: Sequence[Prompt], rows: Sequence[Example]
) -> dict[str, Any]:
    def judged(measured: Measured, scores: ModelOutputs) -> Evaluation:
        rule = measured.candidate.decision
        # A bias belongs to a format and needs no labels; the unchanged bias would make the model look less robust than it is.
        return context.answers.judge(scores, rows, context.answers.bias(scores) if rule.kind == "bias" else rule)

    def arm(measured: Measured, prompt: Prompt) -> ArmScores:
        if context.journal.upcoming == "robustness":
            # An earlier session failed here and recorded this; a resumed run must not do more.
            raise CotuneError("the measurement was given up before")
        found = judged(measured, context.answers.scores(prompt, measured.candidate.adapter, rows, "robustness"))
        return ArmScores(found.values, counts=found.counts)

    for measured in (base, winner):
        for prompt in variants if context.journal.upcoming != "robustness" else ():
            context.answers.ahead(prompt, measured.candidate.adapter, rows)
    before, after = ([arm(measured, prompt) for prompt in variants] for measured in (base, winner))
    aggregate = context.task.measure.aggregate
    result = robustness(before, after, metric=aggregate or "mean", groups=groups_of(rows), seed=context.seed)
    # If only finalists write on dev, the base model wrote nothing there.
    as_it_is = {name: judged(measured, measured.scores[: len(rows)]) for name, measured in (("base", base), ("tuned", winner))}
    own = {name: finite(found.score) for name, found in as_it_is.items()}
    return {**result.as_dict(), "own": own, "prompts": [prompt.to_json() for prompt in variants]}
