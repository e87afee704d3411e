"""What is decided between trials: layers that are read, trials that diverge, and what the bundle becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cycle_runs import labelled_rows
from safetensors.torch import load_file

from cotune.config import RunConfig, config_in_memory
from cotune.config.sections import EvaluateConfig
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.stability import measure_robustness
from cotune.cycle.journal import Journal
from cotune.cycle.probe_search.confirm import confirm_labels, final_plan
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit, fit_prompt, task_of
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.loop import LabelLoop
from cotune.cycle.probe_search.plan import fit_plan
from cotune.cycle.probe_search.policy import window_settings
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.state import Evidence, LabelSearch
from cotune.cycle.probe_search.trial import Trials, TuningRequest
from cotune.cycle.probe_search.verdict import EarlyBundles
from cotune.cycle.progress import Quiet
from cotune.cycle.workers.pending import Pending
from cotune.errors import CotuneError
from cotune.evaluate.responses import label_indices
from cotune.evaluate.stats.cross_fitted import standard_error
from cotune.evaluate.stats.intervals import proportion_interval, wilson
from cotune.executor import LostError
from cotune.model.adapters.files import WEIGHTS, LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.probe.cross_fitting import LAYERS_KEPT, as_good
from cotune.probe.readout import load_probe
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal, with_demonstrations
from cotune.tune.settings import TuneSettings, WindowSettings
from tiny import tiny_local, widen_lora

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture(scope="module")
def model(bench: Bench) -> LocalModel:
    return LocalModel.load(bench.model, settings=EngineSettings("cpu", "float32", threads=1))


@pytest.fixture
def context(model: LocalModel, tmp_path: Path) -> RunContext:
    return context_of(model, tmp_path, labelled_rows(60))


def context_of(model: LocalModel, tmp_path: Path, rows: list[dict[str, str]], budget: str = "1Mtok") -> RunContext:
    task = Task.from_rows(rows, input="text", output="label")
    rate = 1.0 if budget == "1Mtok" else 1e9
    costs = CostModel(parse_budget(budget), rate, rate)
    return RunContext(task, model, Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())


class Opened:
    """A loop that has run its first race."""

    def __init__(self, context: RunContext, window: tuple[int, int] | None = None) -> None:
        settings: dict[str, Any] = {"name": "words", "data": {"train": "rows.csv", "input": "text", "output": "label"}}
        config = RunConfig(**settings, search={"pool": 4})
        self.embedding = embedding = Embedding(context)
        if window is not None:
            embedding.layers = (window[1],)
        self.saved: list[Evidence] = []
        trials = Trials(context, embedding, WindowSettings(batch_size=8), window)
        prices, own = Prices(trials, config.evaluate), [seed_prompt(context.task)]
        self.loop = LabelLoop(context, config, own, trials, prices, context.folder / "best")
        self.loop.bundles.better = self._save  # type: ignore[method-assign]
        self.search: LabelSearch = self.loop._judge_first(self.loop.first_race.run())
        self.loop._in_bundle = self.search.first

    def _save(self, search: LabelSearch, evidence: Evidence, before: Evidence | None) -> None:
        self.saved.append(evidence)


def test_a_fit_outlives_a_race_that_looks_at_fewer_layers(context: RunContext) -> None:
    embedding, prompt, rows = Embedding(context), seed_prompt(context.task), context.task.train
    trials = Trials(context, embedding, WindowSettings(batch_size=8))
    deepest = context.model.depth
    states = embedding.states(prompt, BASE, rows, "race", layers=[deepest])
    fit = fit_prompt(context, prompt, rows, states, [deepest])
    # A later race ends below, since its own leaders are read from there.
    embedding.narrow(deepest - 1)
    frozen = trials.frozen(fit, rows)
    shape = (len(context.dev), len(context.task.labels))
    assert frozen.layer == deepest and trials.log_probs(frozen, context.dev, "judge").shape == shape
    tuned = trials.tune(TuningRequest(fit, rows, 2, "tune", context.seed))
    assert tuned is not None and trials.log_probs(tuned, context.dev, "judge").shape == shape


@pytest.mark.parametrize(
    ("rows", "labels", "pairs", "rate"), [(400, 20, True, 2e-3), (120, 20, True, 1e-3), (400, 4, False, 1e-3)]
)
def test_many_rows_of_many_labels_are_tuned_in_pairs_at_a_higher_rate(
    rows: int, labels: int, pairs: bool, rate: float, tmp_path: Path
) -> None:
    made = [{"text": f"text {i}", "label": f"label {i % labels}"} for i in range(rows)]
    context = context_of(tiny_local(), tmp_path, made)
    config = config_in_memory(name="pairs", input=["text"], output="label")
    settings = window_settings(config, context)
    assert (settings.pairs, settings.learning_rate, settings.head_rate) == (pairs, rate, 1e-3)


def test_rows_that_were_not_raced_pass_once_for_the_frozen_probe_and_for_tuning(tmp_path: Path) -> None:
    context = context_of(tiny_local(num_hidden_layers=12, vocab_size=1024), tmp_path, labelled_rows(60))
    embedding, prompt, rows = Embedding(context), seed_prompt(context.task), context.task.train
    trials, layers, raced = Trials(context, embedding, WindowSettings(batch_size=8)), list(range(4, 13)), rows[:14]
    fit = fit_prompt(context, prompt, raced, embedding.states(prompt, BASE, raced, "race"), layers)
    last = next(one for one in fit.found.by_layer if one.layer == max(each.layer for each in fit.found.by_layer))
    deep = replace(last, layer=12, word_scale=0.0)
    fit = replace(fit, rows=rows * 8, found=replace(fit.found, best=deep, by_layer=(deep,)))
    assert trials.frozen(fit, rows).layer == 12 and trials.layer(fit) == 11
    assert trials.tune(TuningRequest(fit, rows, 2, "tune", context.seed)) is not None
    passes = [event["value"] for event in context.journal.events if event["kind"] == "embed"]
    frozen = [(value["rows"], value["layers"]) for value in passes if value["adapter_id"] == BASE]
    assert frozen == [(14, layers), (len(rows) - 14, [11, 12])]


def test_few_rows_always_fit_the_layer_that_tuning_usually_reads(tmp_path: Path) -> None:
    context = context_of(tiny_local(num_hidden_layers=12, vocab_size=1024), tmp_path, labelled_rows(60))
    embedding, prompt, rows, layers = Embedding(context), seed_prompt(context.task), context.task.train, list(range(1, 13))
    states = embedding.states(prompt, BASE, rows, "race", layers=layers)
    # All layers tell labels apart by the same numbers, but 10 has more noise, so that ridge regression prefers others.
    states[:] = states[:1]
    states[9] += np.random.default_rng(0).normal(scale=states.std(), size=states.shape[1:]).astype(states.dtype)
    found = fit_prompt(context, prompt, rows, states, layers).found
    kept = sorted(found.ridge, key=lambda layer: (found.ridge[layer], layer))[:LAYERS_KEPT]
    assert 10 not in kept and [one.layer for one in found.by_layer if not one.word_scale] == sorted([*kept, 10])
    screened = fit_prompt(context, prompt, rows, states, layers, screening=True).found
    assert 10 not in [one.layer for one in screened.by_layer]
    assert task_of(context, prompt, rows * 8, layers, screening=False)[1].also == ()


def test_tuning_reads_the_layer_near_the_usual_one_among_those_that_are_as_good(tmp_path: Path) -> None:
    context = context_of(tiny_local(num_hidden_layers=12, vocab_size=1024), tmp_path, labelled_rows(60))
    embedding, prompt, rows = Embedding(context), seed_prompt(context.task), context.task.train
    trials, layers = Trials(context, embedding, WindowSettings(batch_size=8)), [5, 8, 10, 12]
    fit = fit_prompt(context, prompt, rows, embedding.states(prompt, BASE, rows, "race", layers=layers), layers)
    plain = [one for one in fit.found.by_layer if not one.word_scale]
    assert [one.layer for one in plain] == layers

    def judged(**losses: float) -> PromptFit:
        """The same fit with a mean loss per layer; those of single rows differ by up to 0.2 from layer to layer."""
        rng = np.random.default_rng(0)
        drawn = [losses[f"l{one.layer}"] + rng.uniform(-0.1, 0.1, len(one.losses)) for one in plain]
        fits = tuple(replace(one, losses=loss) for one, loss in zip(plain, drawn, strict=True))
        return replace(fit, found=replace(fit.found, best=as_good(fits)[0], by_layer=fits))

    low = judged(l5=0.5, l8=0.5, l10=0.5, l12=0.5)
    assert (low.found.layer, trials.edge(low), trials.layer(low)) == (5, 6, 10), "all are as good"
    assert trials.layer(judged(l5=0.5, l8=0.9, l10=0.9, l12=0.9)) == 5, "the others are worse"
    assert trials.layer(judged(l5=0.5, l8=0.5, l10=0.9, l12=0.9)) == 8
    hardly = judged(l5=0.5, l8=0.9, l10=0.52, l12=0.9)
    assert [one.layer for one in as_good(hardly.found.by_layer)] == [5] and trials.layer(hardly) == 10, "within two errors"
    with_words = replace(low, found=replace(low.found, best=replace(low.found.best, word_scale=1.0)))
    assert trials.layer(with_words) == with_words.found.layer, "the logits of words are read where the probe reads"
    assert trials.layer(replace(low, rows=low.rows * 8)) == 5, "many rows tell layers apart"
    high = judged(l5=0.9, l8=0.9, l10=0.9, l12=0.5)
    assert (trials.layer(high), trials.layer(replace(high, rows=high.rows * 8))) == (12, 11), "halfway down to 9.6"
    fields = replace(high.found, sizes=(2, 1))
    assert trials.layer(replace(high, rows=high.rows * 8, found=fields)) == 12
    assert trials.frozen(low, rows).layer == 5
    tuned = trials.tune(TuningRequest(low, rows, 2, "tune", context.seed))
    assert tuned is not None and tuned.layer == tuned.probe.layer == 10
    made = [event["value"] for event in context.journal.events if event["kind"] == "train"]
    assert [value["window"] for value in made] == [[6, 10]]
    # A later race that ends below that layer leaves the frozen states to the tuning, which costs a pass.
    prices = Prices(trials, EvaluateConfig())
    before = prices.tuning(low, 40, 3)
    embedding.narrow(5)
    assert prices.tuning(low, 40, 3) > before


def test_a_warm_start_tunes_the_layers_of_the_adapter_that_it_begins_with(tmp_path: Path) -> None:
    """Other layers have no weights there: if the window lay above them, the budget would move the head alone."""
    context = context_of(tiny_local(num_hidden_layers=9, vocab_size=1024), tmp_path, labelled_rows(60))
    adapters = context.model.adapters
    widen_lora(adapters.start(LoraSettings(rank=4, alpha=8, layers=(1, 2, 3)), seed=0), 0)
    old = adapters.save(adapters.weights(), tmp_path / "adapters")
    assert adapters.window(old) == (1, 4) and adapters.window(BASE) == (9, 9)
    embedding, prompt, rows, layers = Embedding(context), seed_prompt(context.task), context.task.train, [4, 8]
    fit = fit_prompt(context, prompt, rows, embedding.states(prompt, BASE, rows, "race", layers=layers), layers)
    plain = [one for one in fit.found.by_layer if one.layer == 8 and not one.word_scale]
    fit = replace(fit, found=replace(fit.found, best=plain[0], by_layer=tuple(plain)))
    usual = Trials(context, embedding, WindowSettings(batch_size=8))
    assert (usual.edge(fit), usual.layer(fit)) == (5, 8)
    trials = Trials(context, embedding, WindowSettings(batch_size=8), within=adapters.window(old))
    assert (trials.edge(fit), trials.layer(fit)) == (1, 4)
    made = trials.tune(TuningRequest(fit, rows, 3, "tune", context.seed, start=old))
    assert made is not None and made.layer == 4
    before, after = (load_file(tmp_path / "adapters" / name / WEIGHTS) for name in (old, made.adapter))
    moved = {name.split(".layers.")[1].split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved == {"1", "2", "3"}
    # Label words are read at the last layer, which no weights lie below: the tuned probe goes without them.
    best = replace(fit.found.best, layer=9, word_scale=1.0)
    worded = replace(fit, found=replace(fit.found, best=best))
    assert worded.found.layer == 9 and (trials.edge(worded), trials.layer(worded)) == (1, 4)
    made = trials.tune(TuningRequest(worded, rows, 3, "tune", context.seed, start=old))
    assert made is not None and made.layer == made.probe.layer == 4
    after = load_file(tmp_path / "adapters" / made.adapter / WEIGHTS)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    # A window inside them stays as it is.
    low = Trials(context, embedding, WindowSettings(batch_size=8), within=(0, 9))
    assert (low.edge(fit), low.layer(fit)) == (5, 8)


def test_reading_another_layer_later_forgets_none(context: RunContext) -> None:
    embedding, prompt, rows = Embedding(context), seed_prompt(context.task), context.task.train
    lower = embedding.states(prompt, BASE, rows, "race", layers=[1])
    embedding.states(prompt, BASE, rows, "race", layers=[context.model.depth])
    assert np.array_equal(embedding.states(prompt, BASE, rows, "race", layers=[1]), lower)
    both = embedding.states(prompt, BASE, rows, "race", layers=[1, context.model.depth])
    assert np.array_equal(both[:1], lower)
    assert sum(event["kind"] == "embed" for event in context.journal.events) == 2


def test_the_bundle_is_only_replaced_by_what_did_better_on_held_out_rows(context: RunContext) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    loop._keep(search)
    assert not opened.saved, "the frozen probe is in the bundle already"
    search.last_epochs = 1.0
    frozen = search.winner
    assert frozen is not None
    # Somewhat worse: it wins by the credit of a trial that is tuned on, and is not better yet.
    noise = np.random.default_rng(0).normal(0.01, 1.0, len(frozen.losses))
    credited = replace(frozen, epochs=1.0, losses=frozen.losses + noise - noise.mean() + 0.01)
    search.evidence.append(credited)
    search.choose()
    loop._keep(search)
    assert search.winner is credited and not opened.saved
    assert search.handicap == pytest.approx(credited.gap(frozen).mean()) and search.handicap > 0
    better = replace(frozen, epochs=1.0, losses=frozen.losses - 0.2)
    search.evidence.append(better)
    search.choose()
    loop._keep(search)
    loop._keep(search)
    assert opened.saved == [better] and search.handicap == 0


def test_a_row_that_a_prompt_shows_with_its_answer_does_not_count_for_it(context: RunContext) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    shown = search.splits[1].held[:3]
    prompt, layers = with_demonstrations(search.seed.prompt, shown), [context.model.depth]
    states = opened.embedding.states(prompt, BASE, search.rows, "race", layers=layers)
    found = loop.judge.frozen(search, fit_prompt(context, prompt, search.rows, states, layers))
    held = [row for split in search.splits for row in split.held]
    assert [row for row, counts in zip(held, found.counts, strict=True) if not counts] == list(shown)
    assert found.mean == pytest.approx(found.losses[found.counts].mean())
    told = context.journal.events[-1]
    assert told["kind"] == "tuned" and told["value"]["rows"] == len(held) - 3
    seed = search.of(search.seed.prompt.id, tuned=False) or loop.judge.frozen(search, search.seed)
    assert seed.counts.all() and len(found.gap(seed)) == len(seed.gap(found)) == len(held) - 3
    # What a prompt does not answer for itself is left out where it is compared: a mean over other rows would say less.
    hard = replace(seed, losses=np.where(found.counts, 0.5, 5.0))
    easier = replace(found, losses=np.full(len(held), 0.6))
    assert easier.mean < hard.mean and hard.beats(easier) and not easier.beats(hard)
    # Whatever the shown rows seem to say, it decides nothing.
    losses = np.where(found.counts, seed.losses + 0.1, -50.0)
    worse = replace(found, epochs=1.0, losses=losses)
    search.evidence, search.last_epochs = [seed, worse], 0.0
    search.choose()
    assert search.winner is seed


def test_of_two_trials_the_better_one_wins_however_far_the_other_has_come(context: RunContext) -> None:
    """A standard error of what tuning changed would favour the weights that changed most."""
    search = Opened(context).search
    frozen = search.winner
    assert frozen is not None
    search.last_epochs = 1.0
    noise = np.random.default_rng(0).normal(0.0, 3.0, len(frozen.losses))
    noise -= noise.mean()
    better = replace(frozen, epochs=1.0, losses=frozen.losses - 0.03)
    worse = replace(frozen, epochs=1.0, losses=frozen.losses + noise - 0.01)
    search.evidence += [worse, better]
    search.choose()
    assert search.winner is better


@pytest.mark.parametrize(
    ("splits", "last_epochs", "errors", "wins"),
    [
        (3, 1.0, 2.9, True),
        (3, 1.0, 3.1, False),
        (3, 0.0, 0.1, False),
        (1, 0.0, 1.9, True),
        (1, 1.0, 1.9, True),
        (1, 0.0, 2.1, False),
    ],
)
def test_how_much_worse_a_trial_may_be_than_the_frozen_probe(
    context: RunContext, splits: int, last_epochs: float, errors: float, wins: bool
) -> None:
    """Three standard errors if each row is held out and it is tuned further; two where dev judges, tuned further or not."""
    search = Opened(context).search
    search.splits, search.last_epochs = search.splits[:splits], last_epochs
    held, rng = sum(len(split.held) for split in search.splits), np.random.default_rng(0)
    frozen = search.winner
    assert frozen is not None
    part = {name: getattr(frozen, name)[:held] for name in ("losses", "correct", "counts")}
    frozen = replace(frozen, **(part | {"correct": np.zeros(held), "counts": np.ones(held, dtype=bool)}))
    noise = rng.normal(size=held)
    noise -= noise.mean()
    worse = replace(frozen, epochs=1.0, losses=frozen.losses + noise + errors * standard_error(noise))
    search.evidence[:] = [frozen, worse]
    search.choose()
    assert search.winner is (worse if wins else frozen)


@pytest.mark.parametrize("cut", [False, True])
def test_a_trial_that_was_cut_may_not_be_worse_at_all(context: RunContext, cut: bool) -> None:
    search = Opened(context).search
    search.last_epochs = 1.0
    frozen = search.winner
    assert frozen is not None
    frozen = replace(frozen, correct=np.zeros(len(frozen.correct)))
    noise = np.random.default_rng(0).normal(size=len(frozen.losses))
    trial = replace(frozen, epochs=1.0, losses=frozen.losses + noise - noise[frozen.counts].mean() + 0.001, cut=cut)
    search.evidence[:] = [frozen, trial]
    search.choose()
    assert search.winner is (frozen if cut else trial)


def test_rows_of_a_group_count_as_one_where_a_trial_must_be_better(context: RunContext) -> None:
    search = Opened(context).search
    search.splits, search.last_epochs = search.splits[:1], 0.0
    (split,) = search.splits
    paired = tuple(replace(row, group=f"g{place // 2}") for place, row in enumerate(split.held))
    frozen = search.winner
    assert frozen is not None
    part = {name: getattr(frozen, name)[: len(paired)] for name in ("losses", "correct", "counts")}
    frozen = replace(frozen, **(part | {"correct": np.ones(len(paired)), "counts": np.ones(len(paired), dtype=bool)}))
    # The two rows of a group lose and win alike, so that their mean is less certain by the square root of two.
    noise = np.repeat(np.random.default_rng(0).normal(size=(len(paired) + 1) // 2), 2)[: len(paired)]
    noise -= noise.mean()
    better = replace(frozen, epochs=1.0, losses=frozen.losses + noise - 1.2 * standard_error(noise))
    search.evidence[:] = [frozen, better]
    search.choose()
    assert search.winner is better
    search.splits = (replace(split, held=paired),)
    search.choose()
    assert search.winner is frozen


@pytest.mark.parametrize("errors", [0, 1, 2, 3])
def test_a_trial_beside_a_frozen_probe_without_errors_has_to_be_better_by_more_than_chance(
    context: RunContext, errors: int
) -> None:
    search = Opened(context).search
    frozen = search.winner
    assert frozen is not None
    search.last_epochs = 1.0
    right = np.ones(len(frozen.correct))
    right[:errors] = 0
    frozen = search.winner = replace(frozen, correct=right)
    search.evidence[:] = [frozen]
    noise = np.random.default_rng(0).normal(0.0, 1.0, len(frozen.losses))
    level = replace(frozen, epochs=1.0, losses=frozen.losses + noise - noise.mean() - 0.01)
    search.evidence.append(level)
    search.choose()
    assert search.winner is (frozen if errors < HEURISTICS.few_errors else level)
    clearly = replace(frozen, epochs=1.0, losses=frozen.losses - 0.02)
    search.evidence.append(clearly)
    search.choose()
    assert search.winner is clearly or errors >= HEURISTICS.few_errors


@pytest.mark.parametrize(
    ("last_epochs", "errors", "factor"),
    [(0.0, 0.5, 1.0), (1.0, 0.5, HEURISTICS.few_temperature), (1.0, 0.1, HEURISTICS.few_temperature), (1.0, 0.05, 1.0)],
)
def test_few_rows_that_are_tuned_further_get_a_higher_temperature_unless_nearly_all_are_right(
    context: RunContext, last_epochs: float, errors: float, factor: float
) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs = 1.0, last_epochs
    loop.judge.tune(search, search.best_frozen)
    trial = next(e for e in search.evidence if e.tuned)
    right = np.ones(len(trial.correct))
    right[np.flatnonzero(trial.counts)[: math.ceil(errors * trial.counts.sum())]] = 0
    search.winner = trial = replace(trial, correct=right)
    search.evidence[:] = [trial if e.tuned else e for e in search.evidence]
    shipped = confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2).arms["best_tuned"].candidate
    saved = [event["value"] for event in context.journal.events if event["kind"] == "probe"]
    (temperature,) = {one["temperature"] for one in saved if one["adapter_id"] == shipped.adapter}
    assert temperature == pytest.approx(factor * trial.mix.temperature, abs=1e-3)
    # The trial's weights keep the temperature that was fitted to their answers.
    (judged,) = {one["temperature"] for one in saved if one["stage"] == "judged" and one["weights"] == trial.first.adapter}
    assert judged == pytest.approx(trial.mix.temperature, abs=1e-3)


def test_a_tuning_whose_states_are_not_finite_is_no_trial(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(context)
    search, loop, model = opened.search, opened.loop, context.model
    real = model.layer_states

    def broken(sequences: Sequence[Any], layers: Sequence[int], **others: Any) -> Any:
        found = real(sequences, layers, **others)
        return found if others["adapter"] == BASE else np.full_like(found, np.nan)

    monkeypatch.setattr(model, "layer_states", broken)
    search.epochs, before = 1.0, list(search.evidence)
    loop.judge.tune(search, search.seed)
    assert search.evidence == before and search.winner in before
    # The rows that are held out may be the only ones that are.
    learnt = {tuple(row.prompt_ids) for row in context.answering.render(search.seed.prompt, context.train_sample)}

    def broken_on_dev(sequences: Sequence[Any], layers: Sequence[int], **others: Any) -> Any:
        found = real(sequences, layers, **others)
        fine = others["adapter"] == BASE or tuple(sequences[0]) in learnt
        return found if fine else np.full_like(found, np.nan)

    monkeypatch.setattr(model, "layer_states", broken_on_dev)
    loop.judge.tune(search, search.best_frozen, splits=search.splits[:1])
    assert all(not e.tuned for e in search.evidence) and search.winner in before


class Lost:
    """Workers that are lost in every job; jobs are numbers."""

    def __init__(self) -> None:
        self.queued, self.cancelled, self._jobs = list[int](), list[int](), 0

    def keep(self, data: bytes) -> str:
        return "name"

    def job(self, work: Any, given: Any, **more: Any) -> int:
        self._jobs += 1
        return self._jobs

    def submit(self, job: int) -> None:
        self.queued.append(job)

    def cancel(self, job: int) -> None:
        self.cancelled.append(job)

    def result(self, job: int) -> Any:
        raise LostError("4 workers ended in the same job", of_job=True)


def test_a_trial_that_fails_takes_back_its_own_jobs_alone(context: RunContext) -> None:
    opened, workers = Opened(context), Lost()
    search, loop = opened.search, opened.loop
    other = next(fit for fit in search.fits.values() if fit.prompt.id != search.seed.prompt.id)
    search.epochs, loop.trials._pending = 1.0, Pending(workers)  # type: ignore[arg-type]
    loop.judge.tune_ahead(search, other, search.splits)
    loop.judge.tune_ahead(search, search.seed, search.splits)
    assert workers.queued == [1, 2, 3, 4, 5, 6]
    loop.judge.tune(search, other)
    assert workers.cancelled == [2, 3] and workers.queued == [1, 2, 3, 4, 5, 6]


def test_a_model_that_cannot_read_the_seed_prompt_is_told(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, model = seed_prompt(context.task), context.model
    own = {tuple(row.prompt_ids) for row in context.answering.render(seed, (*context.task.train, *context.task.dev))}
    real = model.layer_states

    def broken(sequences: Sequence[Any], layers: Sequence[int], **others: Any) -> Any:
        found = real(sequences, layers, **others)
        return np.full_like(found, np.nan) if tuple(sequences[0]) in own else found

    monkeypatch.setattr(model, "layer_states", broken)
    with pytest.raises(CotuneError, match="not finite under the seed prompt"):
        Opened(context)


def test_the_interval_of_a_verdict_lies_around_its_score() -> None:
    correct = np.tile([1.0, 2 / 3, 2 / 3], 30)
    assert proportion_interval(correct).as_list() == pytest.approx(wilson(70, 90).as_list())
    assert proportion_interval(np.ones(90)).as_list() == pytest.approx(wilson(90, 90).as_list())


def test_what_a_search_leaves_of_the_budget_goes_into_the_final_tuning(context: RunContext) -> None:
    opened = Opened(context)
    search, prices = opened.search, opened.loop.prices
    assert search.winner is not None
    tuned = replace(search.winner, epochs=1.0)
    search.epochs, search.last_epochs = 1.0, 1.5
    rows = len(search.rows)
    most = opened.loop.config.tune.max_epochs
    wanted = HEURISTICS.epochs(rows, most)

    def last(winner: Evidence) -> float:
        return final_plan(context, search, prices, winner, rows, most).last_epochs

    assert last(search.winner) == 1.5, "a frozen winner is tuned no further"
    assert last(tuned) == min(most, HEURISTICS.more_epochs * wanted) - 1 > wanted - 1
    # More than the usual epochs are for budget that would be left over, beside the measurements after the test.
    context.journal.events.clear()
    further = wanted - 0.5
    cost = prices.end(search, tuned.fit, [tuned.fit, search.seed], further)
    leave(context, HEURISTICS.care * cost + prices.extras() + 1)
    assert last(tuned) == further
    context.journal.events.clear()
    leave(context, HEURISTICS.care * cost)
    assert last(tuned) == wanted - 1
    # Of a budget that is nearly spent nothing is left for more than was planned.
    search.last_epochs = 1.0
    leave(context, 0)
    assert last(tuned) == 1.0
    # The user's bound holds.
    context.spending.account.counts["tokens_trained"] = 0
    context.journal.events.clear()
    assert final_plan(context, search, prices, tuned, rows, 3).last_epochs == 2.0
    # A trial on most rows, whose final tuning was not planned, gets one all the same; another trial without a plan does not.
    search.last_epochs = 0.0
    context.journal.events.clear()
    assert last(tuned) == 0.0
    search.whole = True
    assert last(tuned) > 0
    context.journal.events.clear()
    leave(context, 0)
    assert last(tuned) == 0.0


def leave(context: RunContext, tokens: float) -> None:
    """Spend the budget but for ``tokens``."""
    context.spending.account.counts["tokens_trained"] += int(context.spending.left() - tokens)


def led_by_another(context: RunContext) -> Opened:
    """A search whose best frozen prompt is not the seed prompt."""
    opened = Opened(context)
    search = opened.search
    best, *_, worst = sorted(search.fits.values(), key=lambda fit: fit.mean)
    search.seed, search.evidence, search.winner = worst, [], None
    opened.loop._judge_frozen(search, worst, best)
    assert search.best_frozen is best and worst.mean > best.mean
    return opened


def test_the_seed_prompt_is_not_tuned_where_that_leaves_the_winner_untuned(context: RunContext) -> None:
    opened = led_by_another(context)
    search, loop = opened.search, opened.loop
    prices, lead, seed, rows = loop.prices, search.best_frozen, search.seed, len(search.rows)
    lean = replace(search, tunes_seed=False)
    once = prices.trial(lead, search.splits, 1.0) + prices.final(lead, rows, 1.0)
    least = prices.test(lean, lead, words=False) + once
    both = prices.test(search, lead, words=False) + prices.trial(lead, search.splits, 3.0)
    both += prices.final(lead, rows, 3.0) + prices.final(seed, rows, 6.0)

    def planned(tokens: float) -> LabelSearch:
        leave(context, tokens)
        return fit_plan(context, loop.config, loop.trials, prices, search)

    # A larger budget first, as tokens cannot be given back.
    plan = planned(both + 5)
    assert plan.tunes_seed and plan.epochs + plan.last_epochs == 6.0
    context.journal.events.clear()
    plan = planned(0.6 * both)
    assert plan.epochs + plan.last_epochs > 3.5 and not plan.tunes_seed, "the winner gets the steps of both"
    context.journal.events.clear()
    plan = planned(least + 5)
    assert (plan.epochs, plan.last_epochs, plan.tunes_seed) == (1.0, 1.0, False)
    context.journal.events.clear()
    plan = planned(prices.test(lean, lead, words=False) + 5)
    assert (plan.epochs, plan.last_epochs, plan.zero_shot) == (0.0, 0.0, False), "what is left is for racing"


def test_the_plan_tells_the_steps_that_a_trial_takes(context: RunContext) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    plan = fit_plan(context, loop.config, loop.trials, loop.prices, search)
    (told,) = [event["value"] for event in context.journal.events if event["kind"] == "plan"]
    search.epochs, search.last_epochs = plan.epochs, plan.last_epochs
    loop.judge.tune(search, search.best_frozen, splits=search.splits[:1])
    (trained,) = [event["value"] for event in context.journal.events if event["kind"] == "train"]
    assert trained["steps"] == told["target_steps"] > 0
    assert f"{plan.epochs:g} epochs, {trained['steps']} steps, on {len(search.splits)} splits" in told["text"][0]


def test_a_search_that_took_longer_than_planned_takes_no_steps_from_the_winner(context: RunContext) -> None:
    opened = led_by_another(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs = 1.0, 1.0
    loop.judge.tune(search, search.best_frozen)
    winner = next(e for e in search.evidence if e.tuned)
    prices, rows = loop.prices, len(search.rows)
    both = prices.end(search, winner.fit, [winner.fit, search.seed], 1.0)
    leave(context, both)
    assert final_plan(context, search, prices, winner, rows, 2).tunes_seed
    context.journal.events.clear()
    leave(context, 0.8 * both)
    planned = final_plan(context, search, prices, winner, rows, 2)
    assert not planned.tunes_seed and planned.last_epochs == 1.0


@pytest.mark.parametrize("winner", ["tuned", "frozen"])
@pytest.mark.parametrize("left", ["little", "enough"])
def test_a_seed_prompt_that_is_left_out_is_tuned_if_there_is_budget_at_the_end(
    context: RunContext, left: str, winner: str
) -> None:
    opened = led_by_another(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs, search.tunes_seed = 1.0, 1.0, False
    loop._first_trials(search)
    assert [e.fit.prompt.id for e in search.evidence if e.tuned] == [search.best_frozen.prompt.id]
    search.winner = next(e for e in search.evidence if e.tuned is (winner == "tuned") and e.fit is search.best_frozen)
    if left == "little":
        leave(context, loop.prices.owed(search))
    arms = confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2).arms
    shipped = arms["best_tuned"].candidate.steps
    assert shipped > search.winner.first.steps if winner == "tuned" else shipped == 0
    seed = arms["seed_tuned"].candidate
    assert (seed == arms["seed_prompt"].candidate) is (left == "little") and (seed.steps == 0) is (left == "little")


@pytest.mark.parametrize("winner", ["frozen", "tuned"])
def test_new_prompts_are_raced_for_a_frozen_winner_where_none_can_be_tuned(context: RunContext, winner: str) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs, search.tunes_seed = 60.0, 1.0, False
    assert search.winner is not None and not search.winner.tuned
    if winner == "tuned":
        search.winner = replace(search.winner, epochs=60.0)
        search.evidence.append(search.winner)
    judged, raced = len(search.evidence), len(search.fits)
    race = loop.sizes.cost(4, len(search.rows)) + loop._trial_cost(search, search.winner.fit, tunes=False)
    leave(context, loop.prices.owed(search) + loop.prices.extras() + race + 5)
    reason = loop._next_cycle(search)
    if winner == "tuned":
        assert "racing new prompts and tuning the best of them needs about" in reason and len(search.fits) == raced
        return
    assert not reason and len(search.fits) > raced and len(search.evidence) == judged + 1
    assert not any(e.tuned for e in search.evidence)


def long_children(prompt: Prompt, count: int) -> list[Proposal]:
    """New prompts whose instruction follows the row, so that no pass shares it."""
    words = " ".join(["Read all of this text and then say which kind of word it has."] * 4)
    prompts = [prompt.edit(order="input_first", instruction=f"{words} {number}.") for number in range(count)]
    return [Proposal(one, "edit", (prompt.id,), "order") for one in prompts]


def test_new_prompts_that_cost_more_than_the_seed_prompt_are_raced_as_far_as_there_is_room(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(context)
    search, loop, prices = opened.search, opened.loop, opened.loop.prices
    search.epochs, rows = 0.0, len(search.rows)
    assert search.winner is not None
    children = long_children(search.seed.prompt, 4)
    monkeypatch.setattr(loop, "_children", lambda *given: children)
    each, planned = prices.rows(children[0].prompt, rows), loop.sizes.least_cost(rows)
    assert each > planned, "these prompts must be far longer than planned"
    besides = loop._trial_cost(search, search.winner.fit, tunes=False) + prices.extras() + prices.owed(search)
    # There is room for a race as planned, but not for a single one of these prompts.
    leave(context, besides + 0.9 * each)
    assert "racing new prompts needs about" in loop._next_cycle(search)
    assert not any(child.prompt.id in search.proposals for child in children)
    context.spending.account.counts["tokens_trained"] -= int(each)
    assert not loop._next_cycle(search)
    assert children[0].prompt.id in search.fits and not any(child.prompt.id in search.proposals for child in children[1:])
    assert context.spending.left() >= prices.owed(search) + prices.extras()


def test_a_tuning_leaves_the_time_for_its_tuned_states(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = context_of(model, tmp_path / "timed", labelled_rows(60), "1000s")
    opened, kept = Opened(timed), list[float]()
    trials, fit = opened.loop.trials, opened.search.best_frozen
    monkeypatch.setattr("cotune.cycle.probe_search.trial.spent_to", lambda keep, *given, **named: kept.append(keep))
    timed.spending.costs.score_rate = 100.0
    for keep in (50.0, 0.0):
        assert trials.tune(TuningRequest(fit, timed.train_sample, 2, "tune", 0, keep=keep)) is not None
        timed.journal.events.clear()
    states = opened.embedding.row_cost(fit.prompt, len(timed.train_sample), layers=[trials.layer(fit)])
    assert kept[0] > 50.0 + 0.5 * states > 51.0 and kept[1] == 0.0


def test_the_next_race_is_priced_with_the_fits_of_its_probes(
    context: RunContext, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = context_of(model, tmp_path / "timed", labelled_rows(60), "1000s")
    opened = Opened(timed)
    search, loop = opened.search, opened.loop
    rows = len(search.rows)
    (raced,) = [event["value"] for event in timed.journal.events if event["kind"] == "race"]
    assert raced["seconds"] == search.base_race.fit_seconds > 0
    planned = loop.prices.fits(rows)
    assert planned > 0 and loop.prices.later_fits(rows) == pytest.approx(raced["seconds"])
    loop.prices.saw_fits(rows, 300.0)
    assert loop.prices.later_fits(rows) == pytest.approx(300.0) and loop.prices.fits(rows) == planned
    loop.prices.saw_fits(rows // 2, 300.0)
    assert loop.prices.later_fits(rows) > 300.0
    loop.prices.saw_fits(rows, 300.0)
    # Passes take no time with these rates, so that the fits are nearly all of a race's cost.
    monkeypatch.setattr(loop.prices, "room", lambda search: loop.prices.extras() + 290.0)
    assert "racing new prompts needs about 300 s, and 290 s are left for it" in loop._next_cycle(search)
    monkeypatch.setattr(loop.prices, "room", lambda search: loop.prices.extras() + 310.0)
    assert not loop._next_cycle(search)
    assert loop.prices.later_fits(rows) != pytest.approx(300.0), "the last race was faster"


def test_other_formats_are_answered_by_probes_that_have_not_seen_dev(model: LocalModel, tmp_path: Path) -> None:
    """A probe that has learnt from the dev rows looks better on them, and tuning would seem to cost robustness."""
    context = context_of(model, tmp_path, labelled_rows(200))
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    # A prompt with a text has other formats.
    lead = search.seed
    search.epochs, search.last_epochs = 1.0, 1.0
    loop.judge.tune(search, lead)
    search.winner = next(e for e in search.evidence if e.tuned)
    confirmed = confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2)
    found = measure_robustness(context, confirmed)
    assert found["n"] >= 32 and len(found["prompts"]) == 8
    values = {kind: [e["value"] for e in context.journal.events if e["kind"] == kind] for kind in ("probe", "score")}
    stages = {value["adapter_id"]: (value["stage"], value["weights"]) for value in values["probe"]}
    used = {value["adapter_id"] for value in values["score"] if value["stage"] == "robustness"}
    assert sorted(stages[adapter] for adapter in used) == sorted([("judged", BASE), ("judged", search.winner.first.adapter)])
    final = confirmed.arms["best_prompt"].candidate.adapter
    assert stages[final] == ("final", BASE) and final not in used
    # The scores of the unchanged prompt are those on the same rows, of the same probes.
    trained = loop.trials.frozen(lead, search.splits[0].learn)
    right = loop.trials.log_probs(trained, context.dev[: found["n"]], "judge").argmax(axis=1)
    truth = label_indices(context.dev[: found["n"]], context.task)
    assert found["own"]["base"] == pytest.approx((right == truth).mean(), abs=1e-6)


def test_a_trial_that_is_not_tuned_on_all_rows_ships_with_a_probe_of_all(context: RunContext) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs = 1.0, 0.0
    loop.judge.tune(search, search.best_frozen)
    winner = search.winner = next(e for e in search.evidence if e.tuned)
    arms = confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2).arms
    shipped = arms["best_tuned"].candidate
    assert shipped.steps == winner.first.steps and context.model.adapters.without_probe(shipped.adapter) == winner.first.adapter
    probe = context.model.adapters.probe(shipped.adapter)
    assert probe is not None and len(search.rows) > len(search.splits[0].learn)
    expected = loop.trials.refitted(winner.fit, winner.first, search.rows).probe
    for part in ("weight", "bias"):
        mine, trial, of_all = (getattr(one, part) for one in (probe, winner.first.probe, expected))
        np.testing.assert_allclose(mine * winner.mix.temperature, of_all, rtol=1e-4, atol=1e-6)
        assert not np.allclose(of_all, trial)


def test_a_trial_that_takes_the_place_of_the_first_bundle_has_a_probe_of_all_rows(context: RunContext) -> None:
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    search.epochs = 1.0
    loop.judge.tune(search, search.best_frozen)
    trial = next(e for e in search.evidence if e.tuned)
    assert len(search.rows) > len(search.splits[0].learn)
    EarlyBundles(context, loop.trials, context.folder / "best", "words").better(search, trial, search.first)
    saved = load_probe(context.folder / "best" / "adapter")
    assert saved is not None
    expected = loop.trials.refitted(trial.fit, trial.first, search.rows).probe
    np.testing.assert_allclose(saved.weight * trial.mix.temperature, expected.weight, rtol=1e-4, atol=1e-6)


def test_states_of_prompts_that_are_out_of_the_race_are_forgotten(context: RunContext) -> None:
    """Otherwise the states of all prompts of all cycles would lie in memory."""
    opened = Opened(context)
    search, loop, embedding = opened.search, opened.loop, opened.embedding
    search.epochs, search.last_epochs = 1.0, 1.0
    loop._first_trials(search)
    loop._end_cycle(search)
    for _ in range(3):
        assert not loop._next_cycle(search)
        loop._end_cycle(search)
    held = {prompt for prompt, _ in embedding._known}
    assert held <= search.needed < set(search.proposals) and len(search.needed) < len(search.fits)
    assert {prompt for prompt, _ in embedding._files} == held
    lost = next(e.fit.prompt for e in search.evidence if e.tuned and e.fit.prompt.id not in search.needed)
    assert embedding.known(lost, BASE, search.rows) == 0
    # Nothing that the arms need is embedded twice.
    confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2)
    keys = [event["key"] for event in context.journal.events if event["kind"] == "embed"]
    assert len(keys) == len(set(keys))


def test_a_final_tuning_that_diverges_ships_the_frozen_prompt_with_its_own_held_out_answers(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholds of ``--unsure`` and the corrected dev score come from the chosen candidate, which must be what ships."""
    opened = Opened(context)
    search, loop = opened.search, opened.loop
    search.epochs, search.last_epochs = 1.0, 1.0
    loop.judge.tune(search, search.best_frozen)
    search.winner = next(e for e in search.evidence if e.tuned)
    monkeypatch.setattr(loop.trials, "tune", lambda request: None)
    confirmed = confirm_labels(context, search, loop.trials, loop.prices, max_epochs=2)
    assert confirmed.arms["best_tuned"] is confirmed.arms["best_prompt"]
    assert confirmed.chosen.candidate.prompt == search.winner.fit.prompt and confirmed.chosen.candidate.steps == 0
    assert confirmed.chosen in confirmed.considered
