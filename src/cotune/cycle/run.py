"""A whole run: set up, search, confirm, test, bundle, report. Runs again in the same folder go on where it stopped."""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cotune import __version__
from cotune.config import RunConfig
from cotune.cycle.answering.judging import open_judge, read_by_hand
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.candidate import Candidate
from cotune.cycle.context import Lab
from cotune.cycle.diagnostics.leakage import overlap_finding, overlapping
from cotune.cycle.diagnostics.near_duplicates import check_neighbours
from cotune.cycle.diagnostics.prefix import measure_prefix
from cotune.cycle.diagnostics.slices import END_SHARE, measure_slices
from cotune.cycle.diagnostics.stability import measure_noise, measure_robustness, noise_of
from cotune.cycle.diagnostics.unwritable import check_golds, check_lengths
from cotune.cycle.earlier_bundle import Previous, enter
from cotune.cycle.endpoints import check_keys, check_prices
from cotune.cycle.journal import JOURNAL, Journal, cut_journal, read_journal
from cotune.cycle.kept import read_config
from cotune.cycle.probe_search.run import LabelRun, searches_by_probes
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.progress import Watcher
from cotune.cycle.references import measure_references, reference_ids
from cotune.cycle.row_answers import dev_rows, row_answers
from cotune.cycle.search.confirm import confirm, open_test
from cotune.cycle.search.ending import EndCosts
from cotune.cycle.search.loop import Loop
from cotune.cycle.search.plan import Plan
from cotune.cycle.search.planning import fit_plan
from cotune.cycle.search.prompt_loop import PromptLoop, PromptSearch, confirm_prompts
from cotune.cycle.search.prompt_plan import PromptPlan, fit_prompt_plan
from cotune.cycle.search.state import Search
from cotune.cycle.setup import open_lab
from cotune.cycle.summary import attribution_of, build_summary
from cotune.cycle.teacher import read_unlabelled, teach, unlabelled_hash
from cotune.cycle.warm_start import Start, adopt, open_start, start_task
from cotune.errors import BusyError, CotuneError, InputError
from cotune.evaluate.stats.detectable import detectable_sentence
from cotune.evaluate.stats.resampling import group_index
from cotune.files import cannot_write, remove_stale, write_json, write_text
from cotune.model.adapters.slots import BASE
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt, parse_prompt
from cotune.task.example import groups_of
from cotune.task.task import Task

SUMMARY, CONFIG, BUNDLE = "summary.json", "config.json", "best"
DEV_ROWS, TEST_ROWS = "dev_rows.json", "test_rows.json"
REPORT_ERROR = "report-error.txt"


class View(Watcher, Protocol):
    """Shows how a run goes on."""

    def event(self, event: dict[str, Any]) -> None:
        """A line of the journal."""
        ...


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run.

    Attributes:
        folder: the run's folder.
        summary: what ``summary.json`` holds.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def bundle(self) -> Path:
        """The folder that ships."""
        return self.folder / BUNDLE

    def __repr__(self) -> str:
        from cotune.report import summary_line

        return f"Result({str(self.folder)!r}, {summary_line(self.summary)})"

    def _repr_html_(self) -> str:
        from cotune.report import summary_html

        return summary_html({**self.summary, "out": str(self.folder)})


class Quiet:
    """A view that shows nothing."""

    def event(self, event: dict[str, Any]) -> None:
        """Nothing."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """Nothing."""

    def set_time_left(self, seconds: float | None) -> None:
        """Nothing."""


def run(
    config: RunConfig, out: Path, *, task: Task | None = None, prompts: Sequence[str] = (), view: View | None = None
) -> Result:
    """Tune prompt and model together for a task; go on with what stands in ``out``.

    Args:
        config: what to do.
        out: the run's folder; made when missing.
        task: the rows, where they were read already; None reads what the config names.
        prompts: further prompt texts of the user's, candidates beside the seed prompt.
        view: shows progress.

    Raises:
        InputError: config, data, model or budget are wrong, or the folder holds another run.
        BusyError: another process works in the folder.
    """
    view = view or Quiet()
    started = time.monotonic()
    budget = parse_budget(config.budget)
    start = open_start(config)
    config = adopt(config, start)
    if task is None:
        _say(view, "reading the rows")
    task = check_golds(config, start_task(config, start, task))
    own = _own_prompts(config, task, prompts)
    unlabelled = read_unlabelled(config, task)
    by_hand = read_by_hand(config, task)
    if not (out / CONFIG).is_file():
        _check_model(config)
    if not (out / SUMMARY).is_file():
        check_keys(config)
    check_prices(config, budget)
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be made ({error.strerror})", where=str(out), mend="Choose another --out."
        ) from error
    with _locked(out):
        also = {"unlabelled": unlabelled_hash(unlabelled), "judge": by_hand.content_hash if by_hand.asked else None}
        finished = _check_same(out, config, task, own, start, also)
        if finished is not None:
            return Result(out, finished)
        remove_stale(out)
        journal = Journal(out, started=started)
        fresh = not journal.events
        journal.listeners.append(view.event)
        if journal.events:
            done = f"{len(journal.events)} steps, {journal.clock() / 60:.1f} min"
            note = {"text": f"going on with {out}: {done} are done"}
            view.event({"n": len(journal.events) - 1, "kind": "note", "value": note})
            # Only a view that draws a whole picture needs what happened before.
            for event in journal.events if getattr(view, "wants_history", False) else ():
                view.event(event)
        try:
            taught: Any = {}
            if unlabelled:
                task, taught = teach(config, budget, task, unlabelled, own[0], out, journal)
            judge, judging = open_judge(config, task, by_hand, out, journal)
            task = check_lengths(config, task)
            if config.remote_model is None:
                _say(view, f"loading the model {Path(config.model).name}")
            lab = open_lab(config, task, own[0], journal, out, view, judge)
            for spent in (taught, judging):
                lab.account.pay(spent)
            lab.account.saw_judging(judging)
            _start(lab, config, own)
            neighbours = check_neighbours(lab, wanted=config.evaluate.neighbours)
            previous = enter(lab, start) if start else None
            labels = LabelRun(lab, config) if searches_by_probes(lab, config) else None
            if labels is not None:
                labels.check_budget(lab, own[0])
            end = EndCosts(lab, config, previous)
            plan = None if labels is not None else _plan(lab, config, own[0], end, previous)
        except InputError:
            if fresh:
                _take_back(out, made)
            raise
        fixed = labels.fixed if labels is not None else plan.fixed if plan is not None else 0.0
        search: Search | PromptSearch | LabelSearch
        if labels is not None:
            search, confirmed = labels.search(lab, config, own, previous, out / BUNDLE)
        elif isinstance(plan, Plan):
            search = Loop(lab, config, plan, own, end, previous).run()
            confirmed = confirm(lab, search, end=end, refit_winners=config.refit, previous=previous)
        else:
            assert plan is not None
            search = PromptLoop(lab, config, plan, own).run()
            confirmed = confirm_prompts(lab, search)
        write_json(out / DEV_ROWS, dev_rows(lab, confirmed))
        seed = confirmed.arms["seed_prompt"].candidate.prompt
        references = reference_ids(lab, seed)
        results = open_test(lab, confirmed, references)
        told = measure_references(lab, seed, results[confirmed.ships]) if references else None
        noise = measure_noise(lab, confirmed, keep=fixed)
        robustness = measure_robustness(lab, confirmed, wanted=config.evaluate.robustness, keep=fixed)
        room = lab.left() - fixed if config.evaluate.slices else 0.0
        slices = measure_slices(lab, confirmed.chosen, room=room, share=END_SHARE, wanted=config.evaluate.slices)
        if lab.remote is None:
            measure_prefix(lab, confirmed.winner.candidate)
        gains = attribution_of(lab, results, noise_of(noise))
        cost = journal.step("cost", "cost", lambda: {"wall_s": round(journal.clock(), 1), "peak_rss_mb": _peak_rss_mb()})
        trust = {
            "noise": noise,
            "robustness": robustness,
            "slices": slices,
            "neighbours": neighbours,
            "judge": judging,
            "references": told,
        }
        summary = build_summary(
            lab, search, confirmed, results, gains, model_name=config.model, cost=cost, trust=trust, previous=previous
        )
        _ship(lab, summary, confirmed.winner.candidate, config.model, out)
        write_json(out / TEST_ROWS, row_answers(lab, results))
        # What a caller gets now is what a later one reads from the file.
        summary = json.loads(json.dumps(summary, allow_nan=False))
        write_json(out / SUMMARY, summary)
        lab.clean()
        _report(out, view)
        journal.step("done", "done", lambda: {"bundle": BUNDLE, "score": summary["arms"][confirmed.ships]["score"]})
        return Result(out, summary)


def _say(view: View, text: str) -> None:
    """Name what takes its time before the first step of the journal."""
    view.event({"n": -1, "kind": "note", "value": {"text": text}})


def _own_prompts(config: RunConfig, task: Task, texts: Sequence[str]) -> list[Prompt]:
    given = config.prompt_text()
    label_words = seed_prompt(task).label_words
    first = seed_prompt(task) if given is None else _parsed(given, task, "prompt").edit(label_words=label_words)
    others = [_parsed(text, task, f"prompt {i + 1}").edit(label_words=label_words) for i, text in enumerate(texts)]
    return list({prompt.id: prompt for prompt in (first, *others)}.values())


def _parsed(text: str, task: Task, where: str) -> Prompt:
    return parse_prompt(text, task.input_fields, where=where)


def _start(lab: Lab, config: RunConfig, own: Sequence[Prompt]) -> None:
    task = lab.task
    probed = next(event["value"] for event in lab.journal.events if event["kind"] == "engine")
    told = overlap_finding(overlapping(task, own), "the prompts that you gave")
    groups = groups_of(lab.dev)
    loaded = lab.stopwatch.taken()
    lab.journal.step(
        "start",
        [task.fingerprint, lab.scorer.fingerprint],
        lambda: {
            "task": task.name,
            "n": {"train": len(task.train), "dev": len(task.dev), "test": task.test.n},
            "labels": len(task.labels),
            "output": task.checks["output_type"].message if "output_type" in task.checks else "",
            "model": config.model,
            "model_fingerprint": lab.scorer.fingerprint,
            "budget": config.budget,
            "seed": config.seed,
            "device": probed["device"],
            "dtype": probed.get("dtype"),
            "threads": probed.get("threads"),
            "prompts": [prompt.to_json() for prompt in own],
            "checks": [finding.message for finding in (*told, *task.checks.findings)],
            **({} if groups is None else {"dev_groups": group_index(groups).tolist()}),
            **loaded,
            "detectable": detectable_sentence(task.test.n, group_sizes=task.test.group_sizes(), metric=task.metric),
        },
    )


def _ship(lab: Lab, summary: dict[str, Any], candidate: Candidate, model_name: str, out: Path) -> None:
    from cotune.bundle import save_bundle

    save_bundle(
        out / BUNDLE,
        task_name=lab.task.name,
        input_fields=lab.task.input_fields,
        output_field=lab.task.output_field,
        output=candidate.own.output if candidate.own is not None else lab.task.output,
        answer_tokens=candidate.own.limit if candidate.own is not None else lab.answering.limit,
        metric=lab.task.metric,
        prompt=candidate.prompt,
        decision=candidate.decision,
        adapter_folder=None if candidate.adapter == BASE else out / "adapters" / candidate.adapter,
        model=lab.scorer,
        metrics={key: summary[key] for key in ("arms", "gains", "selection", "robustness", "n", "seed", "verdict")},
        model_name=model_name,
    )


def _report(out: Path, view: View) -> None:
    """Write the page; a run whose numbers are safe does not fail for want of it."""
    from cotune.report.html import write_report

    try:
        write_report(out)
    except Exception as error:
        what = str(error) if isinstance(error, CotuneError) else f"{type(error).__name__}: {error}"
        text = f"the report could not be written ({what}); the run's numbers are safe, cotune report {out} tries again"
        # A traceback is no note, but it must not be lost either. A disk that is full takes neither.
        with suppress(CotuneError):
            write_text(out / REPORT_ERROR, traceback.format_exc())
            text += f", {REPORT_ERROR} says more"
        view.event({"n": -1, "kind": "note", "value": {"text": text}})
    else:
        (out / REPORT_ERROR).unlink(missing_ok=True)


def _plan(lab: Lab, config: RunConfig, seed: Prompt, end: EndCosts, previous: Previous | None) -> Plan | PromptPlan:
    return fit_plan(lab, config, seed, end, previous) if lab.remote is None else fit_prompt_plan(lab, config, seed)


def _check_same(
    out: Path, config: RunConfig, task: Task, own: Sequence[Prompt], start: Start | None, also: Mapping[str, str | None]
) -> dict[str, Any] | None:
    """Write down what this folder's run is, or check that it is this one; its summary where it has ended.

    ``also`` holds content hashes of further rows, None where there are none.

    Raises:
        InputError: the folder holds a run of another config, of other data, or something else.
    """
    path = out / CONFIG
    identity: dict[str, Any] = {"data": task.fingerprint, "prompts": [p.id for p in own], "cotune": __version__}
    # Of a bundle its content counts, wherever it lies; a run that starts afresh knows nothing of it.
    identity |= {"start": start.id} if start else {}
    identity |= {name: known for name, known in also.items() if known}
    if not path.is_file():
        if read_journal(out / "journal.jsonl"):
            raise InputError("the folder holds a journal without its config", where=str(out), mend="Choose another --out.")
        write_json(path, {"config": config.model_dump(mode="json"), "identity": identity})
        return None
    try:
        before, known = read_config(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the run's config cannot be read", where=str(path), mend="Choose another --out.") from error
    changes = before.differences(config)
    if not changes and known != identity:
        changes = [
            f"{name}: {known.get(name)} -> {identity.get(name)}"
            for name in {**known, **identity}
            if known.get(name) != identity.get(name)
        ]
    if changes:
        raise InputError(
            f"the folder holds a run that differs: {'; '.join(changes)}",
            where=str(out),
            mend="Choose another --out, or give the same settings to go on.",
        )
    summary = out / SUMMARY
    if summary.is_file() and any(event["kind"] == "done" for event in read_journal(out / "journal.jsonl")):
        found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return found
    return None


def _check_model(config: RunConfig) -> None:
    """Find the model before anything is written."""
    from cotune.model.loading.bundled import resolve_model

    if config.remote_model is None:
        resolve_model(config.model)


def cut_damaged(out: Path) -> Path | None:
    """Cut a run's damaged journal, while nobody else works there, as :func:`cotune.cycle.journal.cut_journal` does."""
    if not (out / JOURNAL).is_file():
        return None
    with _locked(out):
        return cut_journal(out)


def _take_back(out: Path, made: Sequence[Path]) -> None:
    """Remove what a new run wrote where its input proves wrong, so that the next command may use the folder."""
    for name in (CONFIG, JOURNAL, "scores.sqlite", "scores.sqlite-wal", "scores.sqlite-shm", ".lock"):
        (out / name).unlink(missing_ok=True)
    for place in made:
        with suppress(OSError):
            place.rmdir()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process works in {out}. Wait for it, or choose another --out.") from error
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield
    finally:
        lock.release()


def _peak_rss_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)
