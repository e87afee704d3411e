"""Free answers behind a trained prefix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import InputError
from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from tiny import tiny_local

PROMPT = Prompt(instruction="Answer the question about the card.", input_template="Question: {input}", cue="Answer:")
OTHER = Prompt(instruction="Answer with one word.", input_template="{input}")
ROWS = [{"input": text} for text in ("Who built the tower?", "x", "Where is my money, and when does the card arrive?")]
ANSWERS = ["a person", "", "the city by the river"]


def from_text(model: Any) -> TrainedPrefix:
    ids = model.own_prefix(PROMPT, ("input",), ())
    with torch.inference_mode():
        return TrainedPrefix.of_state(model.runner.prefix(ids), ids)


def shaken(trained: TrainedPrefix) -> TrainedPrefix:
    generator = torch.Generator().manual_seed(1)
    return replace(trained, keys=trained.keys + 0.5 * torch.randn(trained.keys.shape, generator=generator))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_untrained_it_changes_no_answer_of_any_prompt(kind: Any, tmp_path: Path) -> None:
    model = tiny_local(kind)
    adapter = model.adapters.save_prefix(from_text(model), tmp_path)
    for prompt in (PROMPT, OTHER):
        found, bare = (model.generate(prompt, ROWS, limit=10, adapter=which) for which in (adapter, BASE))
        assert found.ids == bare.ids
        losses = [model.answer_losses(prompt, ROWS, ANSWERS, adapter=which).losses for which in (adapter, BASE)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert model.generate(PROMPT, ROWS, limit=4, adapter=adapter).tokens < model.generate(PROMPT, ROWS, limit=4).tokens


@pytest.mark.parametrize("before_all", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_trained_it_changes_answers_and_both_engines_agree_on_their_losses(kind: Any, before_all: bool, tmp_path: Path) -> None:
    fast, plain = tiny_local(kind), tiny_local(kind)
    plain.shared = False
    trained = shaken(from_text(fast))
    adapter = fast.adapters.save_prefix(replace(trained, ids=()) if before_all else trained, tmp_path)
    plain.adapters.register(tmp_path / adapter)
    found = fast.generate(PROMPT, ROWS, limit=10, adapter=adapter)
    assert found.ids != fast.generate(PROMPT, ROWS, limit=10).ids
    assert found.ids == tuple(fast.generate(PROMPT, [row], limit=10, adapter=adapter).ids[0] for row in ROWS)
    losses = [model.answer_losses(PROMPT, ROWS, ANSWERS, adapter=adapter).losses for model in (fast, plain)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    with pytest.raises(InputError, match="trained prefix"):
        plain.generate(PROMPT, ROWS, limit=4, adapter=adapter)
