"""The backend for models on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.config import RunConfig
from cotune.cycle.backends.base import Backend, Opening, tune_settings
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.spending import Stopwatch
from cotune.cycle.journal import Journal
from cotune.cycle.kept import check_model, chosen_length, recorded
from cotune.cycle.permissions import Permissions
from cotune.cycle.workers.opening import check_engine
from cotune.cycle.workers.pool import NoWorkers, WorkerPool, Workers
from cotune.embed import Neighbours
from cotune.errors import InputError
from cotune.model.engine.edge_states import MOST_BYTES, EdgeStates
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import MOST_TOKENS, EngineSettings, batch_tokens, weight_bytes
from cotune.model.hardware.capability import check_capability, check_device
from cotune.model.hardware.shared_cpus import SharedCpus
from cotune.model.loading.bundled import resolve_model
from cotune.model.local import LocalModel
from cotune.prompt.truncate import Truncation
from cotune.task.task import Task
from cotune.tune.tuners import TUNERS, check_dtype

if TYPE_CHECKING:
    from cotune.cycle.context import RunContext

_MICRO_TOKENS = 1536
"""Maximum tokens of a training pass on a CPU. A token of a 135M model keeps about 1 MB for the backward pass, and larger
products are not faster.
"""


class LocalBackend(Backend):
    """A model on this machine: the bundled one, a folder, or one of the hub."""

    capabilities = LocalModel.capabilities
    place = "on this machine"
    alone = ""

    def takes(self, config: RunConfig) -> bool:
        return True

    def check(self, config: RunConfig) -> None:
        resolve_model(config.model)

    def open(self, opening: Opening) -> RunContext:
        from cotune.cycle.context import RunContext

        config, task, journal, out = opening.config, opening.task, opening.journal, opening.out
        executor = opening.executor
        # The tuner checks it too, but only after the model is loaded.
        check_dtype(config.engine.dtype)
        journal.tell(f"loading the model {Path(config.model).name}")
        stopwatch = Stopwatch()
        with stopwatch:
            model, probed = load_model(config, out, journal, None if executor is None else executor.threads)
        opening.resources.enter_context(closing(model))
        workers: Workers = NoWorkers(out)
        if executor is not None:
            check_engine(model)
            workers = WorkerPool(executor, out, config.model, model, probed)
            workers.begin()
        tune = tune_settings(config)
        TUNERS[tune.method].check(model, tune)
        on_cpu = model.runner.device.type == "cpu"
        costs = CostModel.guess(
            parse_budget(config.budget),
            gflops=probed["gemm_gflops"],
            parameters=_matrix_weights(model),
            threads=probed["threads"] if on_cpu else None,
            width=int(model.model.config.get_text_config().hidden_size),
        )
        if costs.budget.kind == "time":
            # Not under a budget of tokens, which must not depend on what a killed run forgot.
            model.runner.edges = EdgeStates(MOST_BYTES)
        if costs.budget.kind == "time" and ((workers.slots and not journal.replaying) or journal.holds_next("workers", [])):
            # A resumed run may have other workers, and must make the same plans.
            slots = journal.step("workers", [], lambda: {"slots": max(1, workers.slots)})["slots"]
            costs = costs.spread(int(slots))
        if on_cpu:
            tune = replace(tune, micro_tokens=_MICRO_TOKENS)
            if costs.budget.kind == "time" and config.engine.threads is None and executor is None:
                # Under a budget of tokens numbers must not depend on what else runs, and workers use all processors themselves.
                model.runner.cpus = SharedCpus(int(probed["threads"]), journal.tell)
                opening.resources.callback(model.runner.cpus.restore)
        limit, seed, watcher, grader = config.output.max_tokens, config.seed, opening.watcher, opening.grader
        return RunContext(
            task,
            model,
            journal,
            costs,
            out,
            tune,
            seed,
            watcher,
            limit,
            grader,
            stopwatch=stopwatch,
            workers=workers,
            readout=config.tune.readout,
        )

    def reopen(
        self, config: RunConfig, folder: Path, events: list[dict[str, Any]], task: Task, permissions: Permissions
    ) -> LocalModel:
        place = permissions.model_folder(config, folder)
        check_model(events, place)
        longest = config.engine.max_tokens or chosen_length(events).get("max_tokens") or MOST_TOKENS
        settings = _settings_here(recorded(events, "engine", str(folder)), longest, config.engine.truncate, place)
        cache = ScoreCache(folder / "scores.sqlite")
        model = LocalModel.load(place, settings=settings, cache=cache, name=permissions.model_name(config), light=True)
        model.chooser = Neighbours(model)
        return model


def load_model(config: RunConfig, out: Path, journal: Journal, threads: int | None = None) -> tuple[LocalModel, dict[str, Any]]:
    """Load the model with the device, dtype, threads and batch size of the run's first session, which are recorded.

    ``threads`` is the number of threads of each worker if the config gives none; the run's own process uses as many, so that
    results do not depend on who computes them.
    """
    folder = resolve_model(config.model)
    check_model(journal.events, folder)
    engine = config.engine

    def effect() -> dict[str, Any]:
        found = check_capability(engine.device, engine.dtype, engine.threads or threads)
        return {
            "device": found.device,
            "dtype": found.dtype,
            "threads": found.threads,
            "batch_tokens": engine.batch_tokens or batch_tokens(found.memory_bytes, weight_bytes(folder)),
            "gemm_gflops": found.gemm_gflops.get(found.dtype, 0.0) or 50.0,
            "probe": found.to_json(),
        }

    probed: dict[str, Any] = journal.step("engine", [engine.model_dump(mode="json"), config.model_identity], effect)
    settings = EngineSettings.recorded(probed, engine.max_tokens or MOST_TOKENS, engine.truncate)
    try:
        check_device(settings.device)
    except InputError as error:
        raise InputError(
            f"the run was started on {settings.device}, and here {error.what}",
            where=str(out),
            hint="Resume it on a machine with such a device, or start a new run here with another --out.",
        ) from error
    model = LocalModel.load(folder, settings=settings, cache=ScoreCache(out / "scores.sqlite"), name=config.model)
    return model, probed


def _settings_here(engine: Mapping[str, Any], max_tokens: int, truncate: Truncation, folder: Path) -> EngineSettings:
    """The engine settings of the run, or the best ones for this machine if the run's device is not available.

    Both prompts are scored with the same settings, so that the comparison is fair on any machine.
    """
    settings = EngineSettings.recorded(engine, max_tokens, truncate)
    try:
        check_device(settings.device)
    except InputError:
        found = check_capability("auto", "auto", None)
        tokens = batch_tokens(found.memory_bytes, weight_bytes(folder))
        return EngineSettings(found.device, found.dtype, found.threads, tokens, max_tokens, found.memory_bytes, truncate)
    return settings


def _matrix_weights(model: LocalModel) -> int:
    """Number of weights without the embeddings."""
    total = sum(p.numel() for p in model.model.parameters())
    table: int = model.model.get_input_embeddings().weight.numel()
    return max(1, int(total) - table)
