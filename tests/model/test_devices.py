"""The engine on every device that is there, against the CPU: the same scores, gradients, answers and vectors.

``pytest -m device`` runs these on a machine with a GPU. Everywhere they also run on a device that only pretends to be one, see
:mod:`elsewhere`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, elsewhere, move

from cotune.cache import CACHE_VARIABLE
from cotune.errors import InputError
from cotune.model.adapters.files import LoraSettings
from cotune.model.base import Sampling
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.capability import check_capability
from cotune.model.local import LocalModel
from cotune.model.structured.grammar import Grammar
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import shared_prefix
from cotune.tune.batches import TrainingRow, training_rows
from cotune.tune.loss import shared_prefix_loss
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun
from tiny import tiny_local, tiny_model, tiny_tokenizer, widen_lora

pytestmark = pytest.mark.device

LABELS = ("place", "person", "number of people")
PROMPT = Prompt(instruction="Name the kind of the question: {labels}", input_template="Question: {text}", cue="Answer:")
ROWS = [{"text": f"{'Who is the one in the old tower by the river'[: 6 + 7 * (i % 5)]} {i}?"} for i in range(9)]
ANSWERS = ["place", "a person", "", "so many people"] * 3
TUNE = TuneSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=5e-3, batch_size=4, warmup=2)

REAL = ["cpu"]
REAL += ["cuda"] if torch.cuda.is_available() else []
REAL += ["mps"] if torch.backends.mps.is_available() else []


@dataclass(frozen=True)
class Place:
    """A device, and how near to the CPU its fp32 is."""

    device: str
    near: float

    def model(self, kind: Any = "llama", dtype: str = "float32") -> LocalModel:
        inner = tiny_model(kind).to(getattr(torch, dtype))
        if self.device == ELSEWHERE.type:
            move(inner)
        else:
            inner.to(self.device)
        settings = EngineSettings(device=self.device, dtype=dtype)
        found = LocalModel(inner, tiny_tokenizer(), fingerprint=f"{kind} on {self.device}", settings=settings)
        assert found.shared and found.runner.device.type == torch.device(self.device).type
        return found


@pytest.fixture(params=[*REAL, ELSEWHERE.type])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    pretending = request.param == ELSEWHERE.type
    with elsewhere() if pretending else nullcontext():
        yield Place(request.param, 1e-5 if request.param in ("cpu", ELSEWHERE.type) else 1e-3)


def on_cpu(kind: Any = "llama") -> LocalModel:
    found: LocalModel = tiny_local(kind)
    return found


def rows_of(model: LocalModel) -> list[TrainingRow]:
    return training_rows(model.renderer.render(PROMPT, ROWS, LABELS), [i % len(LABELS) for i in range(len(ROWS))])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("top", [None, 1])
def test_scores_are_the_cpus(place: Place, kind: Any, top: int | None) -> None:
    found = place.model(kind).score(PROMPT, ROWS, LABELS, top=top).log_probs
    wanted = on_cpu(kind).score(PROMPT, ROWS, LABELS).log_probs
    seen = np.isfinite(found)
    assert seen.all() if top is None else (seen.any(axis=1).all() and (found.argmax(1) == wanted.argmax(1)).all())
    np.testing.assert_allclose(found[seen], wanted[seen], atol=100 * place.near, rtol=0)


def test_scores_in_bfloat16_are_near(place: Place) -> None:
    found = place.model(dtype="bfloat16").score(PROMPT, ROWS, LABELS).log_probs
    np.testing.assert_allclose(found, on_cpu().score(PROMPT, ROWS, LABELS).log_probs, atol=0.5, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_gradients_are_the_cpus(place: Place, kind: Any) -> None:
    def gradients(model: LocalModel) -> list[torch.Tensor]:
        parameters = model.adapters.start(TUNE.lora, seed=0)
        widen_lora(parameters)
        rows = rows_of(model)
        loss, _ = shared_prefix_loss(model, rows, shared_prefix([row.prompt_ids for row in rows]))
        loss.backward()
        return [parameter.grad.cpu() for _, parameter in parameters if parameter.grad is not None]

    found, wanted = gradients(place.model(kind)), gradients(on_cpu(kind))
    assert len(found) == len(wanted) > 10
    for mine, other in zip(found, wanted, strict=True):
        assert float((mine - other).norm()) <= 100 * place.near * float(other.norm())


def test_training_goes_on_from_a_checkpoint_as_if_never_left(place: Place, tmp_path: Path) -> None:
    settings = TuneSettings(lora=TUNE.lora, learning_rate=5e-3, batch_size=4)
    model = place.model()
    through = TuningRun(model, rows_of(model), settings, seed=0, folder=tmp_path / "through")
    through.advance(6)
    left = TuningRun(model, rows_of(model), settings, seed=0, folder=tmp_path / "left")
    left.advance(3)
    again = TuningRun(model, rows_of(model), settings, seed=0, folder=tmp_path / "left")
    assert again.resume() and again.step == 3
    again.advance(6)
    weights = through.weights()
    for name, value in again.weights().items():
        torch.testing.assert_close(value, weights[name], atol=place.near, rtol=0)
    adapter = again.save(tmp_path / "adapters")
    assert np.isfinite(model.score(PROMPT, ROWS, LABELS, adapter=adapter).log_probs).all()


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 3)], ids=["greedy", "drawn"])
def test_answers_are_the_cpus(place: Place, kind: Any, sampling: Sampling) -> None:
    found = place.model(kind).generate(PROMPT, ROWS, limit=12, sampling=sampling)
    assert found.ids == on_cpu(kind).generate(PROMPT, ROWS, limit=12, sampling=sampling).ids


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_answers_under_a_grammar_and_losses_beside_them_are_the_cpus(place: Place, kind: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["aa", "bb"]}, "said": {"type": "string"}},
        "required": ["said"],
    }
    asked: Any = {"limit": 30, "grammar": Grammar.json(schema), "references": ANSWERS[: len(ROWS)]}
    found, wanted = (model.generate(PROMPT, ROWS, **asked) for model in (place.model(kind), on_cpu(kind)))
    assert found.texts == wanted.texts
    np.testing.assert_allclose(found.reference_losses.losses, wanted.reference_losses.losses, rtol=10 * place.near)


def test_losses_of_answers_are_the_cpus(place: Place) -> None:
    found = place.model().answer_losses(PROMPT, ROWS, ANSWERS[: len(ROWS)])
    wanted = on_cpu().answer_losses(PROMPT, ROWS, ANSWERS[: len(ROWS)])
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=10 * place.near)


@pytest.mark.parametrize("layer", [None, 1])
def test_vectors_are_the_cpus(place: Place, layer: int | None) -> None:
    model = place.model()
    sequences = [model.tokenizer(row["text"])["input_ids"] for row in ROWS]
    found = model.last_states(sequences, layer=layer)
    np.testing.assert_allclose(found, on_cpu().last_states(sequences, layer=layer), atol=100 * place.near)
    tokens = np.array(sequences[0])
    np.testing.assert_array_equal(model.token_vectors(tokens), on_cpu().token_vectors(tokens))


@pytest.mark.parametrize("device", REAL)
def test_the_probe_measures_the_device(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    found = check_capability(device)
    assert found.device.startswith(device) and found.gemm_gflops["float32"] > 0 and found.memory_bytes > 0
    if device == "cuda":
        assert check_capability().device == found.device
        with pytest.raises(InputError, match="there is no device cuda:99"):
            check_capability("cuda:99")
        assert found.memory_bytes <= torch.cuda.get_device_properties(found.device).total_memory
        assert check_capability("cuda").dtype == ("bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float32")


def test_the_pretended_device_sees_what_lies_on_the_wrong_one() -> None:
    with elsewhere():
        there = torch.ones(3, device=ELSEWHERE)
        assert there.device == ELSEWHERE and (there + 1).tolist() == [2, 2, 2]
        assert torch.equal(there.cpu(), torch.ones(3))
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
