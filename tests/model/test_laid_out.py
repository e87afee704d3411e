"""Weights in the processor's own layout answer as torch's own products do, and step back where they do not apply."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import Linear

import cotune.model.laid_out as laid_out_module
from cotune.model.laid_out import LaidOut, laid_out, lay_out, plain_products, works
from tiny import tiny_local, tiny_model

PLENTY = 1 << 40
TYPES = [torch.float32, torch.bfloat16]

pytestmark = pytest.mark.skipif(not works(torch.float32), reason="this processor has no layout of its own")


def layer(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    made = Linear(96, 64, bias=bias).to(dtype).requires_grad_(False)
    assert works(dtype)
    assert lay_out(torch.nn.Sequential(made), PLENTY) == 1
    return made


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [(1,), (1, 7), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_torch(dtype: torch.dtype, rows: tuple[int, ...], bias: bool) -> None:
    made = layer(dtype, bias=bias)
    states = torch.randn(*rows, 96).to(dtype)
    with plain_products():
        wanted = made(states)
    with torch.inference_mode():
        found = made(states)
    assert found.shape == wanted.shape and found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_what_is_added_is_added() -> None:
    weight, states, add = torch.randn(64, 96), torch.randn(5, 96), torch.randn(5, 64)
    before = add.clone()
    torch.testing.assert_close(LaidOut(weight).product(states, add=add), states @ weight.t() + add, rtol=1e-5, atol=1e-5)
    assert torch.equal(add, before)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_pass_through_to_the_states_and_to_a_bias(dtype: torch.dtype) -> None:
    made = layer(dtype)
    made.bias.requires_grad_(True)
    found = []
    for plain in (False, True):
        states = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_(True)
        made.bias.grad = None
        if plain:
            with plain_products():
                made(states).square().sum().backward()
        else:
            made(states).square().sum().backward()
        assert states.grad is not None and made.bias.grad is not None
        found.append((states.grad, made.bias.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if dtype == torch.float32 else 5e-2, atol=1e-3)


def test_a_weight_that_changed_is_taken_as_it_is_now() -> None:
    made = layer()
    states = torch.randn(3, 96)
    for change in ("in place", "anew"):
        with torch.no_grad():
            if change == "in place":
                made.weight.mul_(2)
            else:
                made.weight.data = torch.randn(64, 96)
            assert laid_out([made]) is None
            assert torch.equal(made(states), torch.nn.functional.linear(states, made.weight, made.bias))


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    made = layer()
    made.weight.requires_grad_(True)
    made(torch.randn(3, 96)).sum().backward()
    assert made.weight.grad is not None


def test_copies_are_sound() -> None:
    made = layer()
    other = copy.deepcopy(made)
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
        assert not other(torch.randn(3, 96)).any()
        assert made(torch.randn(3, 96)).any()


def test_large_models_and_other_types_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").requires_grad_(False)
    size = sum(weight.nbytes for name, weight in model.named_parameters() if "proj" in name) + model.lm_head.weight.nbytes
    assert lay_out(model, size * 12 - 1) == 0
    assert lay_out(model, size * 12) > 0
    assert lay_out(model, size * 12) == 0, "a second call finds nothing new"
    assert not works(torch.float16)
    works.cache_clear()
    monkeypatch.setattr(laid_out_module.platform, "machine", lambda: "aarch64")
    try:
        assert not works(torch.float32)
    finally:
        works.cache_clear()


def test_wrong_products_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = LaidOut.product
    works.cache_clear()
    monkeypatch.setattr(LaidOut, "product", lambda self, states, bias=None, add=None: plain(self, states, bias, add) * 1.1)
    try:
        assert not works(torch.float32) and not works(torch.bfloat16)
    finally:
        works.cache_clear()


def test_every_linear_layer_of_a_loaded_model_is_laid_out() -> None:
    local = tiny_local("llama")
    linears = [module for module in local.model.modules() if type(module) is Linear]
    assert len(linears) == 2 * 7 + 1 and laid_out(linears) is not None
