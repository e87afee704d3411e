"""Prices of a label search: steps cost the tokens and layers that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows

from cotune.config.sections import EvaluateConfig
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import formats_row, noise_row, variants_of
from cotune.cycle.journal import Journal
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, fit_prompt
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.trial import Trials, TuningRequest
from cotune.cycle.progress import Quiet
from cotune.evaluate.decision import BY_PROBE
from cotune.model.adapters.slots import BASE
from cotune.model.engine.edge_states import EdgeStates
from cotune.probe.readout import Probe
from cotune.prompt.bank import seed_prompt
from cotune.tune.settings import TuneSettings
from cotune.tune.window import WindowSettings
from tiny import tiny_local

LAYER = 1


def context_of(folder: Path, kind: Any = "llama", budget: str = "1Mtok") -> RunContext:
    """Rows of a task whose labels are far longer than the rows."""
    rows = [{**row, "label": f"a rather long name of a label, which is {row['label']}"} for row in labelled_rows(120)]
    task = Task.from_rows(rows, input="text", output="label", limit={"test": 20})
    costs = CostModel(parse_budget(budget), 1.0, 1.0)
    return RunContext(task, tiny_local(kind), Journal(folder), costs, folder, TuneSettings(), 0, Quiet())


def with_probe(context: RunContext, layer: int = LAYER) -> str:
    """The base model with a probe that reads a layer."""
    labels = context.task.labels
    weight = np.random.default_rng(0).normal(size=(len(labels), 2 * context.model.width)).astype(np.float32)
    probe = Probe(labels, weight, np.zeros(len(labels), dtype=np.float32), layer)
    return context.model.adapters.add_probe(BASE, probe, context.folder / "adapters")


def fit_of(context: RunContext, embedding: Embedding, layer: int = LAYER) -> PromptFit:
    prompt, rows = seed_prompt(context.task), context.task.train
    return fit_prompt(context, prompt, rows, embedding.states(prompt, BASE, rows, "race", layers=[layer]), [layer])


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_answers_of_a_probe_are_charged_by_the_layers_that_run(tmp_path: Path, kind: Any) -> None:
    context, told = context_of(tmp_path, kind), list[int]()
    seed, embedding = seed_prompt(context.task), Embedding(context)
    context.watcher.progress = lambda stage, what, tokens: told.append(tokens)  # type: ignore[method-assign]
    adapter, priced = with_probe(context), context.spending.rows.scored(seed)
    context.answers.scores(seed, adapter, context.dev, "test")
    spent = context.spending.account.counts["tokens_scored"]
    assert spent == pytest.approx(embedding.row_cost(seed, len(context.dev), layers=[LAYER]), rel=0.1)
    assert sum(told) == pytest.approx(spent, rel=0.2)
    assert context.spending.rows.scored(seed) == priced, "a probe's answers say nothing about the price of label words"
    (score,) = [event["value"] for event in journal_of(tmp_path) if event["kind"] == "score"]
    embedding.states(seed, BASE, context.dev, "judge", layers=[LAYER])
    (embed,) = [event["value"] for event in journal_of(tmp_path) if event["kind"] == "embed"]
    assert score["tokens"] == pytest.approx(embed["tokens"], abs=1) and (score["saved"] > 0) is (kind == "llama")


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_tuning_costs_no_label_words(tmp_path: Path, kind: Any) -> None:
    context = context_of(tmp_path, kind)
    embedding = Embedding(context)
    trials = Trials(context, embedding, WindowSettings(batch_size=8))
    prices, fit = Prices(trials, EvaluateConfig()), fit_of(context, embedding, layer=2)
    priced = prices.tuning(fit, len(context.train_sample), 6)
    before = context.spending.account.tokens
    assert trials.tune(TuningRequest(fit, context.train_sample, 6, "tune", 0)) is not None
    assert priced == pytest.approx(context.spending.account.tokens - before, rel=0.1)


def test_rows_that_ran_before_cost_the_layers_of_the_window(tmp_path: Path) -> None:
    context, told = context_of(tmp_path), list[int]()
    seed, embedding = seed_prompt(context.task), Embedding(context)
    trials = Trials(context, embedding, WindowSettings(batch_size=8))
    fit, rows = fit_of(context, embedding, layer=2), context.train_sample
    assert trials.edge(fit) == 1
    whole = embedding.row_cost(seed, len(rows), layers=[2])
    # Nothing is kept by default.
    assert embedding.row_cost(seed, len(rows), layers=[2], edge=1) == whole
    context.model.runner.edges = EdgeStates(10**6)
    tuned = trials.tune(TuningRequest(fit, rows, 2, "tune", 0))
    assert tuned is not None
    (embed,) = [
        event["value"] for event in journal_of(tmp_path) if event["kind"] == "embed" and event["value"]["stage"] == "tune"
    ]
    priced = embedding.row_cost(seed, len(rows), layers=[2], edge=1)
    assert embed["tokens"] == pytest.approx(priced, rel=0.05) and priced < 0.6 * whole
    # A test that the frozen model has read before the tuned one.
    context.watcher.progress = lambda stage, what, tokens: told.append(tokens)  # type: ignore[method-assign]
    context.model.adapters.use(BASE)
    embedding.states(seed, BASE, context.dev, "judge", layers=[2])
    embedding.states(seed, tuned.adapter, context.dev, "judge", layers=[2])
    frozen, after = (event["value"]["tokens"] for event in journal_of(tmp_path) if event["value"].get("stage") == "judge")
    assert after == pytest.approx(embedding.row_cost(seed, len(context.dev), layers=[2], edge=1), rel=0.05) and after < frozen
    # More rows than are kept.
    context.model.runner.edges = EdgeStates(1000)
    assert embedding.row_cost(seed, len(rows), layers=[2], edge=1) == whole


def test_noise_and_other_formats_of_a_probe_cost_the_layers_that_run(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    seed, adapter = seed_prompt(context.task), with_probe(context)
    own, prefix = noise_row(context, seed, tuned=True, probe_layer=LAYER)
    found = context.answering.noise(seed, adapter, context.dev, BY_PROBE, odd=3, progress=lambda tokens: None)
    assert found is not None and found[1] == pytest.approx(2 * (len(context.dev) * own + prefix), rel=0.1)
    variants = variants_of(context, seed)
    own, prefix = formats_row(context, seed, variants, probe_layer=LAYER)
    for variant in variants:
        context.answers.scores(variant, adapter, context.dev, "robustness")
    spent = context.spending.account.counts["tokens_scored"]
    assert spent == pytest.approx(len(variants) * (len(context.dev) * own + prefix), rel=0.1)
