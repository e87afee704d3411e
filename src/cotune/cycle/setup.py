"""The place where a run's effects happen, with its model: opened on this machine, or behind an endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cotune.config import RunConfig, TuneConfig
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.stopwatch import Stopwatch
from cotune.cycle.context import RunContext
from cotune.cycle.crew.crew import Crew
from cotune.cycle.crew.opening import check_engine
from cotune.cycle.endpoints import embeds_of, open_remote, remote_costs
from cotune.cycle.journal import Journal
from cotune.cycle.kept import check_model
from cotune.cycle.progress import Watcher
from cotune.errors import InputError
from cotune.evaluate.judge import Judge
from cotune.executor import Executor
from cotune.model.adapters.files import LoraSettings, alpha_of
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings, batch_tokens, weight_bytes
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.tune.settings import PrefixSettings, TuneSettings

_MICRO_TOKENS = 1536
"""Tokens of a training pass on a CPU. A token of a 135M model leaves about 1 MB for the way back, and products of fewer rows
than these are as fast."""


def open_context(
    config: RunConfig,
    task: Task,
    seed: Prompt,
    journal: Journal,
    out: Path,
    watcher: Watcher,
    grader: Judge | None = None,
    executor: Executor | None = None,
) -> RunContext:
    """Open the model and make the run context.

    Args:
        config: of the run.
        task: what is asked.
        seed: the seed prompt, with which an endpoint is tried.
        journal: of the run.
        out: the run's folder.
        watcher: is told about progress.
        grader: the judge whose grades are the metric; None where it asks nobody.
        executor: who does the work that can be spread; None where the run does all itself.

    Raises:
        InputError: the model cannot be loaded, or has no such layers to tune.
        EndpointError: the endpoint cannot be asked.
    """
    budget = parse_budget(config.budget)
    if config.remote_model is not None:
        if not task.measure.needs_answers:
            raise InputError(
                f"an endpoint does not tell how likely it finds the right answers, which the metric {task.metric} needs",
                where="metric",
                hint="Name a metric of the answers, or a model on this machine.",
            )
        remote, found = open_remote(config, task, seed, out, journal)
        costs = remote_costs(budget, config, found)
        embeds = embeds_of(config, remote)
        return RunContext(
            task, remote, journal, costs, out, tune_settings(config), config.seed, watcher, grader=grader, embeds=embeds
        )
    stopwatch = Stopwatch()
    with stopwatch:
        model, probed = load_model(config, out, journal, None if executor is None else executor.threads)
    crew: Crew | None = None
    if executor is not None:
        check_engine(model)
        crew = Crew(executor, out, config.model, model, probed, config.engine.max_tokens)
        crew.begin()
    _check_tunable(model, config.tune, task)
    on_cpu = model.runner.device.type == "cpu"
    costs = CostModel.guess(
        budget,
        gflops=probed["gemm_gflops"],
        parameters=_matrix_weights(model),
        threads=probed["threads"] if on_cpu else None,
        width=int(model.model.config.get_text_config().hidden_size),
    )
    if crew is not None:
        costs = costs.spread(crew.slots)
    tune = tune_settings(config)
    if on_cpu:
        tune = replace(tune, micro_tokens=_MICRO_TOKENS)
    limit, number = config.output.max_tokens, config.seed
    return RunContext(task, model, journal, costs, out, tune, number, watcher, limit, grader, stopwatch=stopwatch, crew=crew)


def load_model(config: RunConfig, out: Path, journal: Journal, threads: int | None = None) -> tuple[LocalModel, dict[str, Any]]:
    """The model as the run's first session chose to run it: device, dtype, threads and batch size are journalled.

    ``threads`` are those of each worker, where the config names none; the run itself computes with as many, so that it does not
    matter who does what.
    """
    from cotune.model.engine.score_cache import ScoreCache
    from cotune.model.hardware.capability import check_capability, check_device
    from cotune.model.loading.bundled import resolve_model

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

    probed: dict[str, Any] = journal.step("engine", [engine.model_dump(mode="json"), config.model], effect)
    settings = EngineSettings.recorded(probed, engine.max_tokens)
    try:
        check_device(settings.device)
    except InputError as error:
        raise InputError(
            f"the run was begun on {settings.device}, and here {error.what}",
            where=str(out),
            hint="Go on with it on a machine that has one, or begin anew here with another --out.",
        ) from error
    model = LocalModel.load(folder, settings=settings, cache=ScoreCache(out / "scores.sqlite"), name=config.model)
    return model, probed


def tune_settings(config: RunConfig) -> TuneSettings:
    """The part of the config that training needs."""
    tune = config.tune
    return TuneSettings(
        method=tune.method,
        lora=LoraSettings(tune.rank, alpha_of(tune.alpha), tune.target),
        prefix=PrefixSettings(tune.prefix.init, tune.prefix.tokens),
        learning_rate=tune.prefix.learning_rate if tune.method == "prefix" else tune.learning_rate,
        batch_size=tune.batch_size or TuneSettings.batch_size,
        clip=tune.clip,
        shared_prefix=tune.shared_prefix,
        # A refit gives weights that a head was not fitted to.
        head=tune.head and not config.refit,
    )


def _check_tunable(model: LocalModel, tune: TuneConfig, task: Task) -> None:
    """Find what is to be tuned now, not after the first race."""
    import torch

    from cotune.model.adapters.prefix import TrainedPrefix

    if tune.method == "prefix":
        if task.output.kind.written and not model.shared:
            raise InputError(
                "this model runs on plain batches, which write no answers behind a trained prefix",
                where="tune.method",
                hint="Use tune.method=lora for free answers, or another model.",
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
                hint=f"Use all-linear or some of {', '.join(known)}, with commas between them.",
            )


def _matrix_weights(model: LocalModel) -> int:
    """Weights that multiply every token: all but the embeddings."""
    total = sum(p.numel() for p in model.model.parameters())
    table: int = model.model.get_input_embeddings().weight.numel()
    return max(1, int(total) - table)
