"""The summary of a finished run: the content of ``summary.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.leakage import overlap_finding
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.endpoints import NOT_TUNED
from cotune.cycle.kept import chosen_length
from cotune.cycle.search.arms import ArmResult, Confirmed
from cotune.cycle.search.result import SearchResult
from cotune.evaluate.answer_noise import AnswerNoise
from cotune.evaluate.attribution import Attribution, attribute
from cotune.evaluate.frozen_arms import ARMS, GAINS, PREVIOUS, is_frozen
from cotune.evaluate.noise import Noise, told_with_noise
from cotune.evaluate.previous import compare_parts, keep_sentence, which_to_keep
from cotune.evaluate.responses import LabelOutputs
from cotune.evaluate.scoring import AVERAGES, finite, score_interval
from cotune.evaluate.shares import field_scores
from cotune.evaluate.stats.intervals import proportion_interval
from cotune.evaluate.stats.selection import winners_curse
from cotune.evaluate.words import gains_sentence, openings_sentence
from cotune.report.terminal.advice import improvements
from cotune.report.terminal.result import result_sentences, result_warnings
from cotune.task.answered import Answered
from cotune.task.example import groups_of
from cotune.version import versions


def attribution_of(
    context: RunContext, results: Mapping[str, ArmResult], noise: Noise | AnswerNoise | None = None
) -> Attribution:
    """Gains between the arms on the test rows; with ``noise``, gains within the noise are not called differences."""
    one = next(iter(results.values()))
    arms = {name: result.for_attribution() for name, result in results.items()}
    if not context.can.tune:
        # Without tuning, all gains except the prompt's compare equal arms or repeat a comparison.
        arms |= {"seed_tuned": arms["seed_prompt"], "best_prompt": arms["prompt_only"], "best_tuned": arms["prompt_only"]}
    # An earlier bundle that ships has another prompt, whose frozen arm is not scored.
    prompts = {results[name].candidate.prompt.id for name in ("best_tuned", "best_prompt") if name in results}
    left_out = ("synergy",) if len(prompts) > 1 else ()
    aggregate = context.task.measure.aggregate
    gains = attribute(arms, metric=aggregate or "mean", groups=one.groups, seed=context.seed, left_out=left_out)
    if not context.can.tune:
        return Attribution(gains.n, {"prompt": gains.gains["prompt"]}, {})
    if noise is None:
        return gains
    floors = {name: _noise_floor(context, result, noise) for name, result in results.items()}
    return told_with_noise(gains, floors, {name: arm.candidate or name for name, arm in arms.items()})


def _noise_floor(context: RunContext, result: ArmResult, noise: Noise | AnswerNoise) -> float:
    """Effect of the machine's noise on an arm's score, which is F1 if that is the metric and the labels are the task's."""
    if isinstance(noise, AnswerNoise):
        return noise.floor(result.evaluation, context.task.measure.aggregate, seed=context.seed)
    given, decision, labels = result.scores, result.candidate.decision, context.task.labels
    assert isinstance(given, LabelOutputs)
    if context.task.metric not in AVERAGES or given.own:
        return noise.floor(given.log_probs, decision)
    references = [labels.index(row.output) for row in result.rows]
    return noise.f1_floor(given.log_probs, decision, references, AVERAGES[context.task.metric], seed=context.seed)


def build_summary(
    context: RunContext,
    config: RunConfig,
    search: SearchResult,
    confirmed: Confirmed,
    results: Mapping[str, ArmResult],
    gains: Attribution,
    *,
    cost: Mapping[str, Any],
    trust: Mapping[str, Any],
    previous: Previous | None = None,
) -> dict[str, Any]:
    """Build the content of ``summary.json``.

    ``trust`` holds the measurements of noise, robustness, slices, references, neighbours and the judge, ``previous`` the
    earlier bundle of a warm start.
    """
    task, account = context.task, context.spending.account
    winner = confirmed.winner
    untuned = not context.can.tune
    going_on = _previous(context, previous, confirmed, results, gains)
    arms = {**dict.fromkeys(ARMS if untuned else ()), **{name: _arm(context, result) for name, result in results.items()}}
    given = {"labelled": len(context.given.train) + len(context.given.dev), "test": context.given.test.n}
    references, best = trust["references"], {"arm": confirmed.ships}
    reached = {"metric": task.metric, "arms": arms, "references": references, "best": best, "given": given}
    further = _last(context, "further")
    openings = [e["value"] for e in context.journal.events if e["kind"] in ("open_test", "more_test")]
    opening: Mapping[str, Any] = next(iter(openings), {})
    opened = openings[-1].get("opened_before", 0) if openings else 0
    judging = judge_told(context, trust["judge"])
    sentences = (
        going_on["sentence"] if going_on is not None else "",
        *result_sentences(reached),
        gains_sentence(
            gains.gains,
            gains.n,
            going_on=going_on is not None,
            frozen_first=search.by_probe,
            frozen=[name for name in ("seed_tuned", "best_tuned") if context.can.tune and is_frozen(arms, name)],
            candidates={name: result.candidate.id for name, result in results.items()},
            tuned=search.prompts_tuned > 0,
        ),
        f"Nothing was tuned: {NOT_TUNED}." if untuned else "",
        openings_sentence(opened),
        _invalid(context, results[confirmed.ships]) if untuned else "",
        judging["sentence"] if judging is not None else "",
    )
    summary = {
        "task": task.name,
        "n": {"train": len(task.train) + (further["rows"] if further else 0), "dev": len(task.dev), "test": task.test.n},
        "given": given,
        "model": config.model,
        "budget": config.budget,
        "metric": task.metric,
        "metric_definition": task.measure.fingerprint or None,
        "input": list(task.input_fields),
        "labels": list(task.labels),
        "output": task.output.to_json(),
        "verdict": " ".join(filter(None, sentences)),
        "warnings": result_warnings(reached),
        "arms": arms,
        "gains": {**dict.fromkeys(GAINS if untuned else ()), **gains.as_dict()},
        "not_tuned": NOT_TUNED if untuned else None,
        "previous": going_on,
        "selection": _selection(context, search, confirmed, results),
        "references": references,
        "first_verdict": first_verdict_of(context),
        "noise": trust["noise"],
        "robustness": trust["robustness"],
        "slices": trust["slices"],
        "judge": judging,
        "test_opened_before": opened,
        "cycles": search.cycles,
        "stopped": search.stopped,
        "prompts_scored": len(search.proposals),
        "prompts_tuned": search.prompts_tuned,
        "cost": {**cost, **account.counts, "dollars": _dollars(context)},
        "label_names": _last(context, "label_names"),
        "tfidf": _last(context, "tfidf"),
        "further": further,
        "length": _length(context),
        "chain": _last(context, "chain"),
        "data": data_health(context, trust["neighbours"], int(opening.get("in_prompts", 0))),
        "truncated": account.truncated,
        "unmatched": account.unmatched,
        "best": {
            "bundle": "best",
            "arm": confirmed.ships,
            "prompt_text": winner.candidate.prompt.text,
            "prompt": winner.candidate.prompt.to_json(),
        },
        "seed": context.seed,
        "versions": versions("torch", "transformers", "peft", "numpy"),
    }
    return {**summary, "next": improvements(summary)}


def _selection(
    context: RunContext, search: SearchResult, confirmed: Confirmed, results: Mapping[str, ArmResult]
) -> dict[str, Any]:
    """The summary's ``selection``: the shipped arm's score on dev, where it was chosen, and on the test."""
    dev, test = confirmed.winner.evaluation.score, results[confirmed.ships].evaluation.score
    values = np.stack([m.evaluation.values for m in confirmed.considered])
    chosen = [m.candidate.id for m in confirmed.considered].index(confirmed.chosen.candidate.id)
    corrected = winners_curse(values, seed=context.seed, groups=groups_of(context.dev), winner=chosen)
    return {
        "dev": round(dev, 6),
        "dev_corrected": finite(corrected) if context.task.measure.per_row else None,
        "test": round(test, 6),
        "optimism": round(dev - test, 6),
        "candidates": len(search.proposals),
    }


def _last(context: RunContext, kind: str) -> dict[str, Any] | None:
    """The value of the last step of a kind; None if there is none. A race that is read on after a cut repeats steps."""
    return next((dict(event["value"]) for event in reversed(context.journal.events) if event["kind"] == kind), None)


def _length(context: RunContext) -> dict[str, Any] | None:
    """Up to how many tokens rows are read, if they were shortened for lack of budget."""
    chosen = chosen_length(context.journal.events)
    return {name: chosen[name] for name in ("row", "max_tokens")} if chosen.get("row") is not None else None


def first_verdict_of(context: RunContext) -> dict[str, Any] | None:
    """The first verdict; None if answers are not read by probes."""
    found = next((event["value"] for event in context.journal.events if event["kind"] == "verdict"), None)
    names = ("seconds", "score", "ci", "n", "log_loss", "prompt_id", "layer", "tfidf", "tfidf_rows", "with_tfidf")
    if found is None:
        return None
    return {**{name: found[name] for name in names}, **({"metric": found["metric"]} if "metric" in found else {})}


def judge_told(context: RunContext, recorded: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary's ``judge``: its model, agreement with people and cost; None without a judge."""
    if context.answers.grader is None:
        return None
    facts = {name: recorded[name] for name in ("model", "rubric", "agreement", "sentence")}
    spent = context.spending.account.judged
    return {**facts, **spent, "dollars": round(spent["dollars"], 6) if context.answers.grader.prices else None}


def data_health(context: RunContext, neighbours: Mapping[str, Any], in_prompts: int) -> dict[str, Any]:
    """Findings of all data checks, warnings first; they concern the rows, the arms' prompts, and rows of similar meaning."""
    told = [asdict(finding) for finding in overlap_finding(in_prompts, "the prompts of the arms")]
    checked = context.task.checks.to_json()
    findings = [*checked["findings"], *told, *neighbours.get("findings", [])]
    findings.sort(key=lambda finding: finding["severity"] != "warning")
    return {**checked, "findings": findings, "neighbours": {k: v for k, v in neighbours.items() if k != "findings"}}


def _previous(
    context: RunContext, previous: Previous | None, confirmed: Confirmed, results: Mapping[str, ArmResult], gains: Attribution
) -> dict[str, Any] | None:
    """The summary's ``previous``: the earlier bundle, its comparison on the test, and which to keep; None without one."""
    if previous is None:
        return None
    facts = previous.facts
    old, new = results[PREVIOUS], results["best_tuned"]
    known = np.array([row.output in set(facts["labels"]) for row in old.rows])
    only_old = bool(facts["new_labels"]) and bool(known.all())
    parts = compare_parts(new.evaluation.correct, old.evaluation.correct, known, groups=old.groups, seed=context.seed)
    gain = gains.gains["over_previous"]
    ships_old = confirmed.chosen.candidate.id == previous.candidate.id
    names = ("bundle", "task", "new_labels", "gone_labels", "unseen_labels", "replay", "remarks")
    return {
        **{name: facts[name] for name in names},
        "prompt_id": previous.candidate.prompt.id,
        "adapter_id": previous.candidate.adapter,
        "keep": which_to_keep(gain, parts, ships_old=ships_old, only_old=only_old),
        "ships_old": ships_old,
        "parts": {name: part.as_dict() for name, part in parts.items()},
        "sentence": keep_sentence(
            gain,
            parts,
            ships_old=ships_old,
            new_labels=facts["new_labels"],
            unseen=bool(facts["unseen_labels"]),
            only_old=only_old,
        ),
    }


def _invalid(context: RunContext, result: ArmResult) -> str:
    """A sentence on the shipped arm's answers that are not values of the task's output; empty if there are none."""
    valid = _valid(context, result)
    misfit = context.task.output.kind.misfit
    return f"{valid.count(False)} of {len(valid)} answers {misfit}, and count as wrong." if False in valid else ""


def _valid(context: RunContext, result: ArmResult) -> list[bool]:
    """Whether each answer is a value of the task's output; empty if every text is one."""
    output = context.task.output
    return [output.fits(answer) for answer in result.evaluation.answers] if output.kind.misfit else []


def _dollars(context: RunContext) -> float | None:
    """Cost of the answers of all endpoints; None if nothing has a price."""
    asked = (context.scorer, context.answers.grader)
    priced = context.spending.account.dollars > 0 or any(one is not None and one.prices is not None for one in asked)
    return round(context.spending.account.dollars, 6) if priced else None


def _arm(context: RunContext, result: ArmResult) -> dict[str, Any]:
    candidate, evaluation, task, groups = result.candidate, result.evaluation, context.task, result.groups
    references, valid = [row.output for row in result.rows], _valid(context, result)
    interval = score_interval(evaluation, references, task.measure, task.output, seed=context.seed, groups=groups)
    return {
        "score": round(evaluation.score, 6),
        "ci": interval.rounded(),
        "n": evaluation.n,
        "log_loss": finite(evaluation.log_loss),
        **(task.output.kind.errors(references, evaluation.answers) if evaluation.answers else {}),
        "valid": round(sum(valid) / len(valid), 6) if valid else None,
        "valid_ci": proportion_interval(np.array(valid), groups=groups).rounded() if valid else None,
        "fields": _fields(context, result),
        "prompt_id": candidate.prompt.id,
        "adapter_id": candidate.adapter,
        "candidate_id": candidate.id,
        "decision": candidate.decision.to_json(),
        **_readout(context, candidate),
        "steps": candidate.steps,
        "split": "test",
    }


def _readout(context: RunContext, candidate: Candidate) -> dict[str, Any]:
    """A candidate's read-out, its layer, None if that is the last one or unknown, and whether TF-IDF is added to a probe."""
    if candidate.decision.kind != "probe":
        written = (context.task if candidate.own is None else candidate.own).output.kind.written
        return {"readout": "generation" if written else "words", "layer": None}
    probe = context.model.adapters.probe(candidate.adapter)
    if probe is None:
        return {"readout": "probe", "layer": None}
    return {"readout": "probe", "layer": probe.layer, "tfidf": probe.terms is not None}


def _fields(context: RunContext, result: ArmResult) -> list[dict[str, Any]] | None:
    """Scores of JSON fields; None for other types of output."""
    output, answers = context.task.output, result.evaluation.answers
    if not output.kind.by_field or not answers:
        return None
    answered = Answered([row.output for row in result.rows], output.as_scored(answers), output)
    return [one.as_dict("field") for one in field_scores(answered, seed=context.seed, groups=result.groups)]
