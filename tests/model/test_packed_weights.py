"""Weights in the processor's own layout answer as torch's own products do, and step back where they do not apply."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import Linear, Sequential

import cotune.model.layers.packed_weights as laid_out_module
from cotune.model.layers.packed_weights import Prepacked, can_prepack, plain_products, prepack, prepacked
from cotune.model.layers.swap import StandIn
from cotune.model.local import LocalModel
from tiny import tiny_local, tiny_model

PLENTY = 1 << 40
TYPES = [torch.float32, torch.bfloat16]

pytestmark = pytest.mark.skipif(not can_prepack(torch.float32), reason="this processor has no layout of its own")


def layer(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> Sequential:
    """A model of one prepacked layer."""
    torch.manual_seed(0)
    made = Sequential(Linear(96, 64, bias=bias).to(dtype).requires_grad_(False))
    if not can_prepack(dtype):
        pytest.skip("this processor does not multiply this number type")
    assert prepack(made, PLENTY) == 1
    return made


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [(1,), (1, 7), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_torch(dtype: torch.dtype, rows: tuple[int, ...], bias: bool) -> None:
    made = layer(dtype, bias=bias)
    states = torch.randn(*rows, 96).to(dtype)
    with plain_products(made):
        wanted = made(states)
    with torch.inference_mode():
        found = made(states)
    assert found.shape == wanted.shape and found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_added_is_added(bias: bool) -> None:
    weight, states, both = torch.randn(64, 96), torch.randn(5, 96), torch.randn(5, 80)
    # Part of a wider tensor, as the updates of stacked adapters are.
    add, own = both[:, 8:72], torch.randn(64) if bias else torch.zeros(64)
    before = both.clone()
    found = Prepacked(weight).product(states, own if bias else None, add=add)
    torch.testing.assert_close(found, states @ weight.t() + own + add, rtol=1e-5, atol=1e-5)
    assert torch.equal(both, before)


def test_no_rows_are_no_rows() -> None:
    assert Prepacked(torch.randn(64, 96)).product(torch.randn(0, 96)).shape == (0, 64)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_pass_through_to_the_states_and_to_a_bias(dtype: torch.dtype) -> None:
    made = layer(dtype)
    made[0].bias.requires_grad_(True)
    found = []
    for plain in (False, True):
        states = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(True)
        made[0].bias.grad = None
        if plain:
            with plain_products(made):
                made(states).square().sum().backward()
        else:
            made(states).square().sum().backward()
        assert states.grad is not None and made[0].bias.grad is not None
        found.append((states.grad, made[0].bias.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if dtype == torch.float32 else 5e-2, atol=1e-3)


@pytest.mark.parametrize("change", ["in place", "other data", "other type", "another weight"])
def test_a_weight_that_changed_is_taken_as_it_is_now(change: str) -> None:
    made = layer()
    states = torch.randn(3, 96)
    with torch.no_grad():
        if change == "in place":
            made[0].weight.mul_(2)
        elif change == "other data":
            made[0].weight.data = torch.randn(64, 96)
        elif change == "other type":
            made.to(torch.bfloat16).to(torch.float32)
        else:
            made[0].weight = torch.nn.Parameter(torch.randn(64, 96), requires_grad=False)
        assert prepacked(made[0]) is None
        assert torch.equal(made(states), torch.nn.functional.linear(states, made[0].weight, made[0].bias))


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    made = layer()
    made[0].weight.requires_grad_(True)
    made(torch.randn(3, 96)).sum().backward()
    assert made[0].weight.grad is not None


def test_copies_are_sound() -> None:
    made = layer()
    other = copy.deepcopy(made)
    assert prepacked(made[0]) is not None and prepacked(other[0]) is None
    states = torch.randn(3, 96)
    with torch.no_grad():
        other[0].weight.data[:] = 0
        other[0].bias.data[:] = 0
        assert not other(states).any()
        assert made(states).any()


def test_large_models_and_other_processors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").requires_grad_(False)
    size = sum({id(m.weight): m.weight.nbytes for m in model.modules() if type(m) is Linear}.values())
    assert not can_prepack(torch.float16)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        assert prepack(model, PLENTY) == 0
    with monkeypatch.context() as patch:
        patch.setattr(laid_out_module.platform, "machine", lambda: "aarch64")
        assert prepack(model, PLENTY) == 0
    assert prepack(model, size * 8 - 1) == 0
    assert prepack(model, size * 8) > 0
    assert prepack(model, size * 8) == 0, "a second call finds nothing new"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("fault", ["wrong", "missing"])
def test_products_that_are_wrong_or_missing_are_not_taken(
    dtype: torch.dtype, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama").requires_grad_(False).to(dtype)
    plain = Prepacked.product

    def product(
        self: Prepacked, states: torch.Tensor, bias: torch.Tensor | None = None, add: torch.Tensor | None = None
    ) -> object:
        if fault == "missing":
            raise AttributeError(f"no {fault}")
        return plain(self, states, bias, add) * 1.1

    with monkeypatch.context() as patch:
        patch.setattr(Prepacked, "product", product)
        assert prepack(model, PLENTY) == 0
    assert not any(isinstance(module, StandIn) for module in model.modules())
    if can_prepack(dtype):
        assert prepack(model, PLENTY) > 0


def test_a_run_that_goes_on_computes_as_it_began() -> None:
    """The memory that was free then decides, and what was decided is part of every key."""
    local = tiny_local("llama")
    model = LocalModel(
        tiny_model("llama"), local.tokenizer, fingerprint="f", settings=replace(local.settings, memory_bytes=0), shared=True
    )
    assert local.prepacked and not model.prepacked
    assert local.facts() != model.facts()


def test_every_linear_layer_of_a_loaded_model_is_laid_out() -> None:
    local = tiny_local("llama")
    linears = [module for module in local.model.modules() if isinstance(module, Linear)]
    assert len(linears) == 2 * 7 + 1 and all(prepacked(linear) is not None for linear in linears)
