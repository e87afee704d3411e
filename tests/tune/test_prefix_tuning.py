"""Prefix tuning: exact gradients, a start that changes nothing, the same weights however a run is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import DivergedError, InputError
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.prefix import load_prefix
from cotune.model.adapters.slots import BASE
from cotune.model.engine.trie import label_paths
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.tune.batches import TrainingRow, training_rows
from cotune.tune.loss import common_prefix, plain_loss, shared_prefix_loss
from cotune.tune.settings import PrefixSettings, TuneSettings
from cotune.tune.trainable import RANDOM_TOKENS, PrefixWeights
from cotune.tune.trainer import TuningRun
from tiny import Kind, tiny_local

LABELS = ("place", "person", "number")
SETTINGS = TuneSettings(method="prefix", learning_rate=3e-2, batch_size=4, warmup=2)
PROMPT = Prompt(instruction="Name the kind of the question: {labels}", input_template="Question: {text}", cue="Answer:")
CHILD = PROMPT.edit(instruction="Name the kind of what is asked for here: {labels}")
BARE = Prompt(input_template="{text}", cue="It asks for a")
TEXTS = [f"{'Who is the one in the old tower by the river'[: 6 + 7 * (i % 5)]} {i}?" for i in range(11)]
KINDS: tuple[Kind, ...] = ("llama", "qwen3", "gemma3")


@pytest.fixture(scope="module")
def model() -> LocalModel:
    found: LocalModel = tiny_local()
    return found


def rows_of(model: LocalModel, prompt: Prompt = PROMPT) -> list[TrainingRow]:
    rendered = model.renderer.render(prompt, [{"text": text} for text in TEXTS], LABELS)
    return training_rows(rendered, [i % len(LABELS) for i in range(len(TEXTS))])


def run_of(
    model: LocalModel, folder: Path, *, prompt: Prompt = PROMPT, start: str = BASE, seed: int = 0, **changes: Any
) -> TuningRun:
    settings = replace(SETTINGS, **changes)
    opening = model.own_prefix(prompt, ["text"], LABELS)
    return TuningRun(model, rows_of(model, prompt), settings, seed=seed, folder=folder, start=start, opening=opening)


def scores(model: LocalModel, adapter: str, prompt: Prompt = PROMPT) -> Any:
    return model.score(prompt, [{"text": text} for text in TEXTS], LABELS, adapter=adapter).log_probs


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("settings", [PrefixSettings(), PrefixSettings(tokens=7), PrefixSettings("random", 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_plain_batches(kind: Kind, settings: PrefixSettings) -> None:
    model = tiny_local(kind)
    rows = rows_of(model)
    ids = model.own_prefix(PROMPT, ["text"], LABELS)
    weights = PrefixWeights(model, settings, ids, seed=0)
    parameters = weights.enter()
    found = []
    for shared in (True, False):
        trained = weights.prefix()
        loss, _ = shared_prefix_loss(model, rows, common_prefix(rows), trained) if shared else plain_loss(model, rows, trained)
        found.append(torch.autograd.grad(loss, [p for _, p in parameters]))
    for (name, _), ours, plain in zip(parameters, *found, strict=True):
        assert float(plain.abs().max()) > 1e-4, name
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=2e-5 * float(plain.abs().max()) + 1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_with_no_step_taken_scores_are_those_of_the_base(kind: Kind, tmp_path: Path) -> None:
    model = tiny_local(kind)
    for tokens in (None, 7):
        run = run_of(model, tmp_path, prefix=PrefixSettings(tokens=tokens))
        adapter = run.save(tmp_path / "adapters")
        for prompt in (PROMPT, CHILD, BARE):
            np.testing.assert_allclose(scores(model, adapter, prompt), scores(model, BASE, prompt), atol=1e-5)


def test_training_lowers_the_loss_and_what_is_saved_answers_so(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path)
    run.advance(30)
    assert sum(run.losses[-5:]) < 0.8 * sum(run.losses[:5])
    trained = run._trainable.prefix()
    adapter = run.save(tmp_path / "adapters")
    assert trained is not None
    assert torch.equal(load_prefix(tmp_path / "adapters" / adapter).keys, trained.keys)
    rendered = model.renderer.render(PROMPT, [{"text": text} for text in TEXTS], LABELS)
    right = [i % len(LABELS) for i in range(len(TEXTS))]
    paths = [label_paths(row.completions)[i] for row, i in zip(rendered, right, strict=True)]
    with torch.no_grad():
        loss, _ = plain_loss(model, [TrainingRow(row.prompt_ids, p) for row, p in zip(rendered, paths, strict=True)], trained)
    assert -float(loss) == pytest.approx(float(scores(model, adapter)[np.arange(len(TEXTS)), right].sum()), abs=1e-3)


def test_plain_batches_train_to_the_same_weights(model: LocalModel, tmp_path: Path) -> None:
    found = []
    for shared in (True, False):
        run = run_of(model, tmp_path / str(shared), shared_prefix=shared)
        run.advance(6)
        found.append(run)
    assert found[0].tokens < found[1].tokens
    np.testing.assert_allclose(found[0].losses, found[1].losses, rtol=1e-3)
    left, right = (run.weights() for run in found)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=5e-3)


def test_the_frozen_model_keeps_its_weights(model: LocalModel, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in model.model.named_parameters()}
    run_of(model, tmp_path).advance(2)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.model.named_parameters())


@pytest.mark.parametrize("settings", [PrefixSettings(), PrefixSettings("random", 5)])
def test_resume_is_bit_equal(model: LocalModel, settings: PrefixSettings, tmp_path: Path) -> None:
    whole = run_of(model, tmp_path / "a", prefix=settings)
    whole.advance(5)
    whole.advance(8, decay_from=5, branch="decay-5-8")
    run_of(model, tmp_path / "b", prefix=settings).advance(3)
    later = run_of(model, tmp_path / "b", prefix=settings)
    assert later.resume()
    # Another run takes the model meanwhile, with LoRA weights in it.
    run_of(model, tmp_path / "b", method="lora", lora=LoraSettings(2, 4)).advance(1)
    later.advance(5)
    later.advance(8, decay_from=5, branch="decay-5-8")
    assert same(later.weights(), whole.weights())
    assert (later.losses, later.tokens) == (whole.losses, whole.tokens)


def test_a_child_goes_on_from_its_parents_scores(model: LocalModel, tmp_path: Path) -> None:
    parent = run_of(model, tmp_path)
    parent.advance(6)
    adapter = parent.save(tmp_path / "adapters")
    child = run_of(model, tmp_path, prompt=CHILD, start=adapter)
    started = child.save(tmp_path / "adapters")
    np.testing.assert_allclose(scores(model, started, CHILD), scores(model, adapter, CHILD), atol=1e-5)
    assert np.abs(scores(model, adapter, CHILD) - scores(model, BASE, CHILD)).max() > 0.01
    # What both begin with keeps what was learnt; all of what the child begins with is trained.
    old, new = (load_prefix(tmp_path / "adapters" / a) for a in (adapter, started))
    both = old.covered(new.ids)
    assert 0 < both < new.length == len(model.own_prefix(CHILD, ["text"], LABELS))
    assert torch.equal(old.keys[:, :both], new.keys[:, :both])
    child.advance(2)
    assert not same(child.weights(), run_of(model, tmp_path, prompt=CHILD, start=adapter).weights())


def test_random_words_come_before_every_prompt_and_go_along_with_it(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path, prefix=PrefixSettings("random"))
    run.advance(3)
    adapter = run.save(tmp_path / "adapters")
    found = load_prefix(tmp_path / "adapters" / adapter)
    assert (found.ids, found.length) == ((), RANDOM_TOKENS)
    assert np.abs(scores(model, adapter, BARE) - scores(model, BASE, BARE)).max() > 0.01
    # The adapter says what kind it is, whatever the settings say.
    child = run_of(model, tmp_path, prompt=CHILD, start=adapter)
    started = child.save(tmp_path / "adapters")
    np.testing.assert_allclose(scores(model, started, CHILD), scores(model, adapter, CHILD), atol=1e-5)
    other = run_of(model, tmp_path, prefix=PrefixSettings("random"), seed=1)
    assert not same(other.weights(), run_of(model, tmp_path, prefix=PrefixSettings("random")).weights())


def test_a_prompt_that_begins_with_the_row_gets_random_words(tmp_path: Path) -> None:
    model = tiny_local(chat=False)
    assert model.own_prefix(BARE, ["text"], LABELS) == ()
    run = run_of(model, tmp_path, prompt=BARE, prefix=PrefixSettings(tokens=3))
    run.advance(2)
    assert load_prefix(tmp_path / run.save(tmp_path)).length == 3


def test_the_prefix_stands_for_what_every_row_begins_with(model: LocalModel, tmp_path: Path) -> None:
    alike = rows_of(model)[:2]
    opening = model.own_prefix(PROMPT, ["text"], LABELS)
    run = TuningRun(model, alike, SETTINGS, seed=0, folder=tmp_path, opening=opening)
    assert common_prefix(alike) > len(opening)
    assert load_prefix(tmp_path / run.save(tmp_path)).ids == opening


def test_no_room_for_it_is_told_before_training(tmp_path: Path) -> None:
    model = tiny_local()
    run = run_of(model, tmp_path, prefix=PrefixSettings("random", 500))
    with pytest.raises(InputError, match="do not fit into the model's 512"):
        run.advance(1)


def test_lora_and_prefix_do_not_go_on_from_each_other(model: LocalModel, tmp_path: Path) -> None:
    lora = run_of(model, tmp_path, method="lora", lora=LoraSettings(2, 4))
    weights, prefix = lora.save(tmp_path), run_of(model, tmp_path).save(tmp_path)
    with pytest.raises(InputError, match="a prefix cannot start from LoRA"):
        run_of(model, tmp_path, start=weights)
    with pytest.raises(InputError, match="LoRA cannot start from a prefix"):
        run_of(model, tmp_path, method="lora", lora=LoraSettings(2, 4), start=prefix).advance(1)


def test_a_loss_that_is_no_number_stops_the_run(model: LocalModel, tmp_path: Path) -> None:
    run = run_of(model, tmp_path)
    run.advance(1)
    with torch.no_grad():
        run._parameters[0][1].fill_(float("nan"))
    with pytest.raises(DivergedError):
        run.advance(2)
