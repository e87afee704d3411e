"""The stages of a run: prepare, search, confirm, test, report. Each takes the results of those before."""

from __future__ import annotations

import json
import resource
import shlex
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.bundle.calibration import CONFORMAL
from cotune.bundle.manifest import DATA
from cotune.bundle.seen import write_row_hashes
from cotune.config import RunConfig
from cotune.cycle.answering.judging import open_judge
from cotune.cycle.backends.base import Opening
from cotune.cycle.backends.registry import backend_of
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.conformal import conformal_scores_of
from cotune.cycle.diagnostics.leakage import overlap_finding, overlapping
from cotune.cycle.diagnostics.near_duplicates import check_neighbours
from cotune.cycle.diagnostics.slices import END_SHARE, measure_slices
from cotune.cycle.diagnostics.stability import measure_noise, measure_robustness, noise_of
from cotune.cycle.diagnostics.unwritable import check_lengths
from cotune.cycle.earlier_bundle import Previous, enter
from cotune.cycle.inputs import Inputs
from cotune.cycle.journal import Journal
from cotune.cycle.policies import SearchPolicy, policy_for
from cotune.cycle.probe_search.policy import fit_rows
from cotune.cycle.progress import Watcher
from cotune.cycle.references import measure_references, reference_ids
from cotune.cycle.row_answers import dev_rows, row_answers
from cotune.cycle.search.arms import ArmResult, Confirmed, open_test, save_candidate, score_more
from cotune.cycle.search.result import SearchResult
from cotune.cycle.summary import attribution_of, build_summary
from cotune.cycle.teaching.teach import teach
from cotune.errors import CotuneError
from cotune.evaluate.stats.detectable import detectable_sentence
from cotune.evaluate.stats.resampling import group_index
from cotune.executor import Executor
from cotune.executor.storage import StorageError
from cotune.files import write_json, write_text
from cotune.model.structured.writable import Writable
from cotune.prompt.prompt import Prompt, unfilled
from cotune.run_files import BUNDLE, DEV_ROWS, REPORT_ERROR, SUMMARY, TEST_ROWS
from cotune.task.example import Example, groups_of
from cotune.task.split import duplicate_key


@dataclass(frozen=True)
class Prepared:
    """A run with a loaded model, checked data and a planned budget.

    Attributes:
        previous: the earlier bundle of a warm start.
        neighbours: rows of similar meaning, for the data checks.
        judging: a judge's agreement with graded rows.
    """

    config: RunConfig
    context: RunContext
    policy: SearchPolicy[Any]
    previous: Previous | None
    neighbours: Any
    judging: Any


@dataclass(frozen=True)
class Tested:
    """The arms on the sealed test, and further measurements.

    Attributes:
        gains: gains by prompt and weights, with intervals.
        checks: noise, robustness, slices and references, by name.
    """

    results: Mapping[str, ArmResult]
    gains: Any
    checks: Mapping[str, Any]


def prepare(
    inputs: Inputs, journal: Journal, out: Path, watcher: Watcher, resources: ExitStack, executor: Executor | None = None
) -> Prepared:
    """Let the teacher, if any, label rows, load the model, check the data and plan the search.

    ``resources`` closes connections and files of the model and of the judge when the run ends.

    Raises:
        InputError: the model, the data or the budget is wrong.
    """
    config, task, own = inputs.config, inputs.task, inputs.own
    backend = backend_of(config)
    taught: Any = {}
    if inputs.unlabelled:
        writable = Writable(task.output) if backend.capabilities.grammar else None
        task, taught = teach(config, inputs.budget, task, inputs.unlabelled, own[0], out, journal, writable)
    judge, judging = open_judge(config, task, inputs.by_hand, out, journal, resources)
    task = check_lengths(config, task, backend.capabilities)
    context = backend.open(Opening(config, task, own[0], journal, out, watcher, resources, judge, executor))
    read = fit_rows(context, config, own)
    for spent in (taught, judging):
        context.spending.account.pay(spent)
    context.spending.account.saw_judging(judging)
    _record_start(context, config, own)
    neighbours = check_neighbours(context, wanted=config.evaluate.neighbours)
    previous = enter(context, inputs.start) if inputs.start else None
    policy = policy_for(context, config, own, previous, out / BUNDLE, read)
    context.workers.ready(journal.tell)
    return Prepared(config, context, policy, previous, neighbours, judging)


def search(prepared: Prepared) -> SearchResult:
    """Search until the rest of the budget is needed for the arms and the test."""
    # A run that is stopped leaves a bundle too.
    context = prepared.context
    _write_row_hashes(context, (*context.given.train, *context.given.dev), context.task.test.input_hashes)
    found: SearchResult = prepared.policy.search()
    return found


def confirm(prepared: Prepared, found: SearchResult) -> Confirmed:
    """Fit and record the arms, and write the best prompts' answers to the dev rows."""
    confirmed = prepared.policy.confirm(found)
    write_json(prepared.context.folder / DEV_ROWS, dev_rows(prepared.context, confirmed))
    return confirmed


def test(prepared: Prepared, confirmed: Confirmed) -> Tested:
    """Open the sealed test once, score the arms and the references, and measure the winner's stability."""
    context, evaluate, keep = prepared.context, prepared.config.evaluate, prepared.policy.fixed
    seed = confirmed.arms["seed_prompt"].candidate.prompt
    references = reference_ids(context, seed)
    results = score_more(context, confirmed, open_test(context, confirmed, references), references, keep=keep)
    told = measure_references(context, seed, results[confirmed.ships], context.spending.left() - keep) if references else None
    noise = measure_noise(context, confirmed, keep=keep)
    robustness = measure_robustness(context, confirmed, wanted=evaluate.robustness, keep=keep)
    room = context.spending.left() - keep if evaluate.slices else 0.0
    slices = measure_slices(context, confirmed.chosen, room=room, share=END_SHARE, wanted=evaluate.slices)
    gains = attribution_of(context, results, noise_of(noise))
    return Tested(results, gains, {"noise": noise, "robustness": robustness, "slices": slices, "references": told})


def report(prepared: Prepared, found: SearchResult, confirmed: Confirmed, tested: Tested) -> dict[str, Any]:
    """Write the summary, the bundle, the test rows and the report page; returns the summary."""
    context, config = prepared.context, prepared.config
    journal, out = context.journal, context.folder

    def effect() -> dict[str, Any]:
        account = context.workers.account()
        told = {"wall_s": round(journal.clock(), 1), "peak_rss_mb": _peak_rss_mb()}
        return {**told, **({"workers": account} if account else {})}

    cost = journal.step("cost", "cost", effect)
    trust = {**tested.checks, "neighbours": prepared.neighbours, "judge": prepared.judging}
    built = build_summary(
        context, config, found, confirmed, tested.results, tested.gains, cost=cost, trust=trust, previous=prepared.previous
    )
    doubt = conformal_scores_of(context, confirmed, tested.results)
    metrics = {
        **{key: built[key] for key in ("arms", "gains", "selection", "robustness", "n", "seed", "verdict")},
        DATA: {"rows": context.task.fingerprint, "test": context.task.test.content_hash},
        **({} if doubt is None else {CONFORMAL: doubt}),
    }
    save_candidate(context, confirmed.winner.candidate, out / BUNDLE, metrics, config.model)
    learnt = (*context.task.train, *context.task.dev, *found.further_rows)
    _write_row_hashes(context, learnt, map(duplicate_key, tested.results[confirmed.ships].rows))
    write_json(out / TEST_ROWS, row_answers(context, tested.results))
    # Return the same values that are later read from the file.
    summary: dict[str, Any] = json.loads(json.dumps(built, allow_nan=False))
    write_json(out / SUMMARY, summary)
    context.training.clean()
    try:
        context.workers.clean()
    except StorageError as error:
        journal.tell(f"what workers stored could not be removed: {error}")
    _write_page(journal, out)
    journal.step("done", "done", lambda: {"bundle": BUNDLE, "score": summary["arms"][confirmed.ships]["score"]})
    return summary


def _write_row_hashes(context: RunContext, learnt: Iterable[Example], tested: Iterable[str]) -> None:
    write_row_hashes(context.folder, learnt=map(duplicate_key, learnt), tested=tested)


def _record_start(context: RunContext, config: RunConfig, own: Sequence[Prompt]) -> None:
    task = context.task
    probed = next(event["value"] for event in context.journal.events if event["kind"] == "engine")
    told = [finding.message for finding in overlap_finding(overlapping(task, own), "the prompts that you gave")]
    told += filter(None, [unfilled(own, task.input_fields)])
    groups = groups_of(context.dev)
    loaded = context.spending.stopwatch.taken()
    context.journal.step(
        "start",
        [task.fingerprint, context.scorer.fingerprint],
        lambda: {
            "task": task.name,
            "n": {"train": len(task.train), "dev": len(task.dev), "test": task.test.n},
            "labels": len(task.labels),
            "metric": task.metric,
            "output": task.checks["output_type"].message if "output_type" in task.checks else "",
            "model": config.model,
            "model_fingerprint": context.scorer.fingerprint,
            "budget": config.budget,
            "seed": config.seed,
            "device": probed["device"],
            "dtype": probed.get("dtype"),
            "threads": probed.get("threads"),
            "prompts": [prompt.to_json() for prompt in own],
            "checks": [*told, *(finding.message for finding in task.checks.findings)],
            **({} if groups is None else {"dev_groups": group_index(groups).tolist()}),
            **loaded,
            "detectable": detectable_sentence(task.test.n, group_sizes=task.test.group_sizes(), metric=task.metric),
        },
    )


def _write_page(journal: Journal, out: Path) -> None:
    """Write the report page; a failure does not fail the run, whose numbers are saved."""
    from cotune.report.html import write_report

    try:
        write_report(out)
    except Exception as error:
        what = str(error) if isinstance(error, CotuneError) else f"{type(error).__name__}: {error}"
        again = f"cotune report {shlex.quote(str(out))}"
        text = f"the report could not be written ({what}); the run's numbers are safe, {again} tries again"
        # A traceback is too long for a note, but must not be lost; on a full disk it cannot be written.
        with suppress(CotuneError):
            write_text(out / REPORT_ERROR, traceback.format_exc())
            text += f", {REPORT_ERROR} says more"
        journal.tell(text)
    else:
        (out / REPORT_ERROR).unlink(missing_ok=True)


def _peak_rss_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)
