"""Lean norms and gated layers give what transformers' own give, forward and backward, and leave what they do not fit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from cotune.model.engine.plan import plan_pass
from cotune.model.engine.runner import PackedRunner
from cotune.model.layers.fused_layers import make_lean
from tiny import Kind, tiny_model

IDS = torch.tensor([[3, 9, 4, 7, 250, 12]])


def _pair(kind: Kind) -> tuple[Any, Any]:
    plain = tiny_model(kind)
    lean = copy.deepcopy(plain)
    for module in (plain, lean):
        for name, parameter in module.named_parameters():
            if "norm" in name:
                with torch.no_grad():
                    parameter.add_(torch.linspace(-0.5, 0.5, parameter.numel()))
            parameter.requires_grad_(True)
    return plain, lean


@pytest.mark.parametrize(
    ("kind", "replaced"),
    [("llama", 2 * 3 + 1), ("qwen2", 2 * 3 + 1), ("qwen3", 2 * 5 + 1), ("gemma3", 0)],
)
def test_which_modules_are_taken(kind: Kind, replaced: int) -> None:
    _, lean = _pair(kind)
    assert make_lean(lean) == replaced
    assert make_lean(lean) == 0, "a second call finds nothing new"


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_logits_and_every_gradient_are_those_of_the_plain_layers(kind: Kind) -> None:
    plain, lean = _pair(kind)
    make_lean(lean)
    with torch.no_grad():
        torch.testing.assert_close(lean(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-5)
    for model in (plain, lean):
        torch.log_softmax(model(IDS).logits, -1)[0, :, 5].sum().backward()
    for (name, one), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_bf16_norms_round_as_the_plain_ones_do() -> None:
    plain = LlamaRMSNorm(64).to(torch.bfloat16)
    with torch.no_grad():
        plain.weight.copy_(torch.linspace(0.5, 2, 64))
    lean = torch.nn.Sequential(copy.deepcopy(plain))
    assert make_lean(lean) == 1
    states = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    with torch.no_grad():
        difference = (lean(states).float() - plain(states).float()).abs() / plain(states).float().abs().clamp_min(1e-3)
    assert float(difference.max()) <= 2**-7, "at most one step of bf16"


def test_states_that_come_in_are_not_written_to() -> None:
    _, lean = _pair("llama")
    make_lean(lean)
    states = torch.randn(1, 4, 32)
    before = states.clone()
    with torch.inference_mode():
        lean.model.norm(states)
        lean.model.layers[0].mlp(states)
    assert torch.equal(states, before)


def test_a_norm_of_another_form_stays_as_it_is() -> None:
    norm = Gemma3RMSNorm(16)
    model = torch.nn.Sequential(norm)
    assert make_lean(model) == 0
    assert model[0] is norm


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_states_that_are_read_are_the_same_where_the_last_layer_does_less(kind: Kind) -> None:
    plain, lean = _pair(kind)
    for parameter in plain.get_input_embeddings().parameters():
        parameter.requires_grad_(False)
    make_lean(lean)
    suffixes = [[5, 6, 7], [8], [9, 10, 11, 12]]
    plan = plan_pass(suffixes, prefix=6, head=IDS[0].tolist())
    read = torch.tensor([8, 9, 12, 13])
    seen: list[int] = []
    lean.get_decoder().layers[-1].mlp.down_proj.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
    wanted = PackedRunner(plain).hidden(plan)[0][read]
    found = PackedRunner(lean).hidden(plan, read=read)[0]
    assert seen == [len(read) if kind != "gemma3" else len(plan.ids)]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for states in (wanted, found):
        states[:, ::7].pow(2).sum().backward()
    for (name, one), other in zip(plain.named_parameters(), lean.named_parameters(), strict=True):
        if one.grad is None:
            continue
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other[1].grad, one.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)
