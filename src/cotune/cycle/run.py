"""A whole run: set up, search, confirm, test, bundle, report. Runs again in the same folder go on where it stopped."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cotune import __version__
from cotune.config import RunConfig, TuneConfig
from cotune.cycle.arms import confirm, open_test
from cotune.cycle.budget import parse_budget
from cotune.cycle.candidate import Candidate
from cotune.cycle.costs import CostModel
from cotune.cycle.journal import JOURNAL, Journal, read_journal
from cotune.cycle.lab import Lab, Watcher
from cotune.cycle.loop import Loop
from cotune.cycle.planning import fit_plan
from cotune.cycle.prefix_words import measure_prefix
from cotune.cycle.previous import enter
from cotune.cycle.slicing import measure_slices
from cotune.cycle.start import Start, adopt, open_start, start_task
from cotune.cycle.summary import attribution_of, build_summary
from cotune.cycle.test_rows import test_rows
from cotune.cycle.trust import measure_noise, measure_robustness, noise_of
from cotune.errors import BusyError, CotuneError, InputError
from cotune.evaluate.paired import detectable_sentence
from cotune.files import remove_stale, write_json, write_text
from cotune.model.adapters import BASE, LoraSettings
from cotune.model.local import EngineSettings, LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt, parse_prompt
from cotune.task.task import Task
from cotune.tune.settings import PrefixSettings, TuneSettings

SUMMARY, CONFIG, BUNDLE, TEST_ROWS = "summary.json", "config.json", "best", "test_rows.json"
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
    task = start_task(config, start, task)
    if task.output.free:
        raise InputError(
            f"answers of the type {task.output.type} can be read and judged, but not tuned yet",
            where="output.type",
            mend="Set output.type to label, or name a column with a few repeated values.",
        )
    own = _own_prompts(config, task, prompts)
    if not (out / CONFIG).is_file():
        _check_model(config)
        _check_key(config)
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be made ({error.strerror})", where=str(out), mend="Choose another --out."
        ) from error
    with _locked(out):
        finished = _check_same(out, config, task, own, start)
        if finished is not None:
            return Result(out, finished)
        remove_stale(out)
        journal = Journal(out, started=started)
        journal.listeners.append(view.event)
        if journal.events:
            done = f"{len(journal.events)} steps, {journal.clock() / 60:.1f} min"
            note = {"text": f"going on with {out}: {done} are done"}
            view.event({"n": len(journal.events) - 1, "kind": "note", "value": note})
            # Only a view that draws a whole picture needs what happened before.
            for event in journal.events if getattr(view, "wants_history", False) else ():
                view.event(event)
        try:
            model, model_name, probed = load_model(config, out, journal)
            _check_tunable(model, config.tune, task)
            costs = CostModel.guess(budget, gflops=probed["gemm_gflops"], parameters=_matrix_weights(model))
            lab = Lab(task, model, journal, costs, out, tune_settings(config), config.seed, view)
            _start(lab, config, model_name, own, probed)
            previous = enter(lab, start) if start else None
            plan = fit_plan(lab, config, own[0], previous)
        except InputError:
            _take_back(out, made)
            raise
        search = Loop(lab, config, plan, own, previous).run()
        confirmed = confirm(lab, search, refit_winners=config.refit, previous=previous)
        results = open_test(lab, confirmed)
        noise = measure_noise(lab, confirmed, keep=plan.fixed)
        robustness = measure_robustness(lab, confirmed, wanted=config.evaluate.robustness, keep=plan.fixed)
        room = lab.left() - plan.fixed if config.evaluate.slices else 0.0
        slices = measure_slices(lab, confirmed.chosen, room=room, wanted=config.evaluate.slices)
        measure_prefix(lab, confirmed.arms["best_tuned"].candidate)
        gains = attribution_of(lab, results, noise_of(noise))
        cost = journal.step("cost", "cost", lambda: {"wall_s": round(journal.clock(), 1), "peak_rss_mb": _peak_rss_mb()})
        trust = {"noise": noise, "robustness": robustness, "slices": slices}
        summary = build_summary(
            lab, search, confirmed, results, gains, model_name=model_name, cost=cost, trust=trust, previous=previous
        )
        _ship(lab, summary, confirmed.arms["best_tuned"].candidate, model_name, out)
        write_json(out / TEST_ROWS, test_rows(lab, results))
        # What a caller gets now is what a later one reads from the file.
        summary = json.loads(json.dumps(summary, allow_nan=False))
        write_json(out / SUMMARY, summary)
        lab.clean()
        _report(out, view)
        journal.step("done", "done", lambda: {"bundle": BUNDLE, "score": summary["arms"]["best_tuned"]["score"]})
        return Result(out, summary)


def load_model(config: RunConfig, out: Path, journal: Journal) -> tuple[LocalModel, str, dict[str, Any]]:
    """The model as the run's first session chose to run it: device, dtype, threads and batch size are journalled."""
    from cotune.model.bundled import resolve_model
    from cotune.model.probe import probe
    from cotune.model.score_cache import ScoreCache

    folder = resolve_model(config.model)
    engine = config.engine

    def effect() -> dict[str, Any]:
        found = probe(engine.device, engine.dtype, engine.threads)
        free = found.memory_bytes
        # A scoring pass of 2,048 tokens of a small model takes a few hundred MB; large models get shorter ones.
        weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        spare = max(0, free - 2 * weights)
        tokens = engine.batch_tokens or int(max(256, min(2048, spare / max(weights, 1) * 512)))
        return {
            "device": found.device,
            "dtype": found.dtype,
            "threads": found.threads,
            "batch_tokens": tokens,
            "gemm_gflops": found.gemm_gflops.get(found.dtype, 0.0) or 50.0,
            "probe": found.to_json(),
        }

    probed: dict[str, Any] = journal.step("engine", [engine.model_dump(mode="json"), config.model], effect)
    settings = EngineSettings(probed["device"], probed["dtype"], probed["threads"], probed["batch_tokens"], engine.max_tokens)
    model = LocalModel.load(folder, settings=settings, cache=ScoreCache(out / "scores.sqlite"), name=config.model)
    return model, config.model, probed


def tune_settings(config: RunConfig) -> TuneSettings:
    """The part of the config that training needs."""
    tune = config.tune
    return TuneSettings(
        method=tune.method,
        lora=LoraSettings(tune.rank, int(tune.alpha), tune.target),
        prefix=PrefixSettings(tune.prefix.init, tune.prefix.tokens),
        learning_rate=tune.prefix.learning_rate if tune.method == "prefix" else tune.learning_rate,
        batch_size=tune.batch_size,
        clip=tune.clip,
        shared_prefix=tune.shared_prefix,
    )


def _own_prompts(config: RunConfig, task: Task, texts: Sequence[str]) -> list[Prompt]:
    given = config.prompt_text()
    label_words = seed_prompt(task).label_words
    first = seed_prompt(task) if given is None else _parsed(given, task, "prompt").edit(label_words=label_words)
    others = [_parsed(text, task, f"prompt {i + 1}").edit(label_words=label_words) for i, text in enumerate(texts)]
    return list({prompt.id: prompt for prompt in (first, *others)}.values())


def _parsed(text: str, task: Task, where: str) -> Prompt:
    return parse_prompt(text, task.input_fields, where=where)


def _start(lab: Lab, config: RunConfig, model_name: str, own: Sequence[Prompt], probed: dict[str, Any]) -> None:
    task = lab.task
    lab.journal.step(
        "start",
        [task.fingerprint, lab.model.fingerprint],
        lambda: {
            "task": task.name,
            "n": {"train": len(task.train), "dev": len(task.dev), "test": task.test.n},
            "labels": len(task.labels),
            "model": model_name,
            "model_fingerprint": lab.model.fingerprint,
            "budget": config.budget,
            "seed": config.seed,
            "device": probed["device"],
            "dtype": probed["dtype"],
            "threads": probed["threads"],
            "prompts": [prompt.to_json() for prompt in own],
            "checks": list(task.checks.messages),
            "detectable": detectable_sentence(task.test.n),
        },
    )


def _ship(lab: Lab, summary: dict[str, Any], candidate: Candidate, model_name: str, out: Path) -> None:
    from cotune.bundle import save_bundle

    save_bundle(
        out / BUNDLE,
        task_name=lab.task.name,
        input_fields=lab.task.input_fields,
        output_field=lab.task.output_field,
        labels=candidate.labels or lab.task.labels,
        metric=lab.task.metric,
        prompt=candidate.prompt,
        decision=candidate.decision,
        adapter_folder=None if candidate.adapter == BASE else out / "adapters" / candidate.adapter,
        model=lab.model,
        metrics={key: summary[key] for key in ("arms", "gains", "selection", "n", "seed", "verdict")},
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


def _check_same(out: Path, config: RunConfig, task: Task, own: Sequence[Prompt], start: Start | None) -> dict[str, Any] | None:
    """Write down what this folder's run is, or check that it is this one; its summary where it has ended.

    Raises:
        InputError: the folder holds a run of another config, of other data, or something else.
    """
    path = out / CONFIG
    identity: dict[str, Any] = {"data": task.fingerprint, "prompts": [p.id for p in own], "cotune": __version__}
    # Of a bundle its content counts, wherever it lies; a run that starts afresh knows nothing of it.
    identity |= {"start": start.id} if start else {}
    if not path.is_file():
        if read_journal(out / "journal.jsonl"):
            raise InputError("the folder holds a journal without its config", where=str(out), mend="Choose another --out.")
        write_json(path, {"config": config.model_dump(mode="json"), "identity": identity})
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        before = RunConfig.model_validate(stored["config"])
    except (ValueError, KeyError) as error:
        raise InputError("the run's config cannot be read", where=str(path), mend="Choose another --out.") from error
    changes = before.differences(config)
    if not changes and stored["identity"] != identity:
        changes = [
            f"{name}: {stored['identity'].get(name)} -> {identity.get(name)}"
            for name in {**stored["identity"], **identity}
            if stored["identity"].get(name) != identity.get(name)
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
    from cotune.model.bundled import resolve_model

    resolve_model(config.model)


def _check_key(config: RunConfig) -> None:
    """Find a missing key before anything is computed; a run that goes on finds it when it asks, and does without."""
    name = config.proposer.key_env
    if config.proposer.base_url is not None and name is not None and not os.environ.get(name, "").strip():
        raise InputError(f"the environment variable {name} is not set", where="proposer.key_env", mend="Set it to the key.")


def _check_tunable(model: LocalModel, tune: TuneConfig, task: Task) -> None:
    """Find what is to be tuned now, not after the first race."""
    import torch

    from cotune.model.trained_prefix import TrainedPrefix

    if tune.method == "prefix":
        if task.output.free:
            raise InputError(
                "behind a trained prefix only labels are scored",
                where="tune.method",
                mend="Use tune.method=lora for free answers.",
            )
        with torch.inference_mode():
            state = model.run_prefix(BASE, [model.renderer.stop_id])
        assert state is not None
        TrainedPrefix.of_state(state)
        return
    target = tune.target
    if target == "all-linear":
        return
    layers = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    for wanted in target.split(","):
        if not any(f".{name}".endswith(f".{wanted}") for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise InputError(
                f"the model has no linear layer {wanted!r}",
                where="tune.target",
                mend=f"Use all-linear or some of {', '.join(known)}, with commas between them.",
            )


def _take_back(out: Path, made: Sequence[Path]) -> None:
    """Where the input proves wrong before there is a plan, leave the place as it was: a mended command may use it."""
    if any(event["kind"] == "plan" for event in read_journal(out / JOURNAL)):
        return
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
    try:
        yield
    finally:
        lock.release()


def _matrix_weights(model: LocalModel) -> int:
    """Weights that multiply every token: all but the embeddings."""
    total = sum(p.numel() for p in model.model.parameters())
    table: int = model.model.get_input_embeddings().weight.numel()
    return max(1, int(total) - table)


def _peak_rss_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)
