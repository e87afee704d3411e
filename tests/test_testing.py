"""The contract tests hold for all that is built in, and find what breaks them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.nn import Parameter

from chat_server import Handler, chat_server, completion, send
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.model.base import Capabilities
from cotune.model.local import LocalModel
from cotune.model.remote.model import RemoteModel
from cotune.prompt.prompt import Prompt
from cotune.refine.edits import OPERATORS, Operator
from cotune.task.metrics.metric import METRICS, Aggregate, metric_named
from cotune.task.values.kinds.base import OutputKind
from cotune.task.values.kinds.label import LabelKind
from cotune.task.values.kinds.number import NumberKind
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.kinds.text import TextKind
from cotune.testing import check_metric, check_model, check_output_kind, check_prompt_edit, check_tuner
from cotune.tune.trainable import LoraWeights
from cotune.tune.tuners import TUNERS, LoraTuner, Tuner
from tiny import tiny_local


@pytest.mark.parametrize("name", [*METRICS, "within 0.5", "within 1%"])
def test_metrics(name: str) -> None:
    check_metric(metric_named(name))


@pytest.mark.parametrize("name", list(KINDS))
def test_output_kinds(name: str) -> None:
    check_output_kind(KINDS[name])


@pytest.mark.parametrize("name", list(OPERATORS))
def test_prompt_edits(name: str) -> None:
    check_prompt_edit(OPERATORS[name])


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_local_models(kind: Any) -> None:
    check_model(tiny_local(kind))


def test_a_model_elsewhere() -> None:
    def reply(handler: Handler) -> None:
        text = handler.request_body["messages"][-1]["content"]
        send(200, completion("plant" if "oak" in text else "animal"))(handler)

    with chat_server(reply) as server:
        check_model(RemoteModel(Client(Endpoint(server.url, "m"), most=2, sleep=lambda s: None), way=RequestFormat()))


ACCURACY = METRICS["accuracy"]
F1 = METRICS["macro_f1"]
assert F1.aggregate is not None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (replace(ACCURACY, rows=lambda a: 2 * ACCURACY.rows(a)), "not between 0 and 1"),
        (replace(ACCURACY, rows=lambda a: ACCURACY.rows(a)[:1]), "have the shape"),
        (replace(ACCURACY, rows=lambda a: 1 - ACCURACY.rows(a)), "wrong answers score higher"),
        (replace(ACCURACY, rows=lambda a: np.random.default_rng().random(len(a.references))), "two calls"),
        (replace(ACCURACY, rows=lambda a: np.linspace(0, 1, len(a.references))), "order of the rows"),
        (replace(ACCURACY, types=("texts",)), "'texts' is not an output type"),
        (replace(F1, aggregate=Aggregate(lambda a: F1.aggregate.counts(a).sum(axis=0), F1.aggregate.score)), "[rows, columns]"),
        (replace(F1, aggregate=Aggregate(F1.aggregate.counts, lambda s: np.float64(np.ravel(s)[0] * 0))), "into [...]"),
    ],
)
def test_a_broken_metric_is_found(changed: Any, told: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_metric(changed)
    assert told in str(caught.value)


class _Unstripped(TextKind):
    def canonical(self, text: str, bounds: Any) -> str:
        return text


class _Hopeful(NumberKind):
    def value(self, text: str) -> Any:
        return 0


class _Braced(NumberKind):
    def form(self, bounds: Any) -> str:
        return "Answer with {a number}."


class _Short(NumberKind):
    samples = ("1", "22", "1e30")


class _Blind(LabelKind):
    def same(self, gold: str, answer: str) -> bool:
        return gold[0].lower() == answer[0].lower()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (_Unstripped(), "white space"),
        (_Hopeful(), "is taken for a value"),
        (_Braced(), "for a placeholder"),
        (_Short(), "could never be written"),
        (_Blind(), "taken for the same"),
        (OutputKind(), "one word in lower case"),
    ],
)
def test_a_broken_kind_is_found(kind: OutputKind, told: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_output_kind(kind)
    assert told in str(caught.value)


def _quoting(prompt: Prompt, task: Any, rng: Any) -> Prompt:
    return prompt.edit(instruction=f"{prompt.instruction} For example: {next(iter(task.train[0].fields.values()))}")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda prompt, task, rng: prompt.edit(cue=str(np.random.default_rng().random())), "one seed"),
        (_quoting, "copies a row"),
        (lambda prompt, task, rng: "text", "gave a str"),
        (lambda prompt, task, rng: prompt.edit(input_template=""), "applies to no prompt"),
        (
            Operator("louder", lambda p, t, r: p.edit(instruction=f"{p.instruction} Now!"), preserves_meaning=True),
            "changes words",
        ),
    ],
)
def test_a_broken_edit_is_found(edit: Any, told: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_prompt_edit(edit)
    assert told in str(caught.value)


def test_a_model_that_promises_too_much_is_found() -> None:
    class Blind(LocalModel):
        capabilities = Capabilities(tune=True)

    found = tiny_local("llama")
    found.__class__ = Blind
    with pytest.raises(AssertionError, match="a model that can be tuned must give hidden states"):
        check_model(found)


def test_a_model_that_ignores_the_grammar_is_found() -> None:
    class Loose(LocalModel):
        def generate(self, *args: Any, grammar: Any = None, **more: Any) -> Any:
            return super().generate(*args, **more)

    found = tiny_local("llama")
    found.__class__ = Loose
    with pytest.raises(AssertionError, match="break the grammar"):
        check_model(found)


class _SecondMatrices(LoraWeights):
    """LoRA weights of which only the second matrices are trained (arXiv 2403.12313)."""

    def enter(self) -> list[tuple[str, Parameter]]:
        return [(name, parameter) for name, parameter in super().enter() if ".lora_B." in name]


class _Halved(LoraTuner):
    """Another tuner than the registered one."""

    def trainable(self, model: Any, settings: Any, *, seed: int, start: str = "base") -> LoraWeights:
        return _SecondMatrices(model, settings.lora, seed=seed, start=start)


@pytest.mark.parametrize("tuner", [*TUNERS.values(), _Halved()], ids=lambda tuner: type(tuner).__name__)
def test_tuners_keep_the_contract(tuner: Tuner) -> None:
    check_tuner(tuner, tiny_local("llama"))


class _Drifting(LoraTuner):
    """Draws whatever seed it is given."""

    def trainable(self, model: Any, settings: Any, *, seed: int, start: str = "base") -> LoraWeights:
        self.drawn = getattr(self, "drawn", 0) + 1
        return super().trainable(model, settings, seed=seed + self.drawn, start=start)


class _Forgetful(LoraTuner):
    """Starts afresh whatever it is asked to go on from."""

    def trainable(self, model: Any, settings: Any, *, seed: int, start: str = "base") -> LoraWeights:
        return super().trainable(model, settings, seed=seed)


@pytest.mark.parametrize(("tuner", "told"), [(_Drifting(), "one seed"), (_Forgetful(), "loaded weights differ")])
def test_a_broken_tuner_is_found(tuner: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_tuner(tuner, tiny_local("llama"))
