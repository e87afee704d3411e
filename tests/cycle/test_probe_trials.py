"""Trials read states at the layer that a prompt was fitted at, whatever later races look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cycle_runs import labelled_rows

from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import fit_prompt
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.progress import Quiet
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from cotune.tune.window import WindowSettings

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture
def context(bench: Bench, tmp_path: Path) -> RunContext:
    task = Task.from_rows(labelled_rows(60), input="text", output="label")
    model = LocalModel.load(bench.model, settings=EngineSettings("cpu", "float32", threads=1))
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    return RunContext(task, model, Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())


def test_a_fit_outlives_a_race_that_looks_at_fewer_layers(context: RunContext) -> None:
    embedding, prompt, rows = Embedding(context), seed_prompt(context.task), context.task.train
    trials = Trials(context, embedding, WindowSettings(batch_size=8))
    deepest = context.model.depth
    states = embedding.states(prompt, "base", rows, "race", layers=[deepest])
    fit = fit_prompt(context, prompt, rows, states, [deepest])
    # A later race ends below, since its own leaders are read from there.
    embedding.narrow(deepest - 1)
    frozen = trials.frozen(fit, rows)
    assert frozen.layer == deepest and set(trials.log_probs(frozen, context.dev, "judge")) == {"refit"}
    tuned = trials.tune(fit, rows, 2, stage="tune")
    assert tuned is not None and set(trials.log_probs(tuned, context.dev, "judge")) == {"head", "refit", "mean"}
