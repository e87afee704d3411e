"""Frozen weights in the layout that the processor's matrix products read fastest.

Before a product, oneDNN brings a weight into an order of its own, each time anew; and for fp32 torch asks another library on
most processors. A frozen weight can be brought into that order once. On two cores with AVX512 all products of ``smollm2-135m``
then took .69 of the time for 1 and 60 tokens, .88 for 220 and .87 for 1,900 in bfloat16, and .63, .75 and .84 in fp32. In
bfloat16 the numbers are the same to the bit, in fp32 they differ in the order of sums. The price is a second copy of the
weights (a third one while an adapter is trained), so large models keep to torch's own products. The operations are those that
torch's compiler uses for frozen weights (``torch/_inductor/fx_passes/mkldnn_fusion.py``); each is tried before it is taken.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import linear

_LAYOUT_ROWS = 512
_SHARE_OF_MEMORY = 12
_enabled = True


class LaidOut:
    """A frozen weight ``[outputs, inputs]`` in the processor's own layout.

    Args:
        weight: on the CPU. It is not kept: see :meth:`is_of`.
    """

    def __init__(self, weight: Tensor) -> None:
        self._mark = _mark(weight)
        with torch.no_grad():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _LAYOUT_ROWS)

    def is_of(self, weight: Tensor) -> bool:
        """Whether this is still what ``weight`` holds; not once it was changed or moved."""
        return _mark(weight) == self._mark

    def product(self, states: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """``states @ weight.T + bias + add``; no gradients.

        Args:
            states: ``[..., inputs]``.
            bias: ``[outputs]``.
            add: ``[..., outputs]``.
        """
        if add is None:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, bias, "none", [], "")
        else:
            found = torch.ops.mkldnn._linear_pointwise.binary(states, add, self._weight, bias, "add")
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> LaidOut:
        # Of a copied layer, whose weight lies elsewhere, this is no more.
        return self


def lay_out(model: torch.nn.Module, memory: int) -> int:
    """Lay out the weights of a model's linear layers, which answer by them from now on as long as they are frozen.

    Args:
        model: with frozen weights on one device.
        memory: bytes of the machine; the weights may take a twelfth of it.

    Returns:
        How many layers; 0 where this is no x86 processor, its products are others, or the model is too large.
    """
    layers = [module for module in model.modules() if type(module) is Linear and "forward" not in vars(module)]
    weights = {id(layer.weight): layer.weight for layer in layers}.values()
    if not layers or sum(weight.nbytes for weight in weights) * _SHARE_OF_MEMORY > memory:
        return 0
    layers = [layer for layer in layers if layer.weight.device.type == "cpu" and works(layer.weight.dtype)]
    for layer in layers:
        layer.laid_out = LaidOut(layer.weight)  # type: ignore[assignment]
        layer.forward = MethodType(_answer, layer)  # type: ignore[method-assign]
    return len(layers)


def laid_out(layers: Sequence[Linear]) -> list[LaidOut] | None:
    """Their weights as they are laid out; None where one is not, or is no more."""
    found: list[LaidOut] = []
    for layer in layers:
        one = vars(layer).get("laid_out")
        if not _enabled or one is None or layer.weight.requires_grad or not one.is_of(layer.weight):
            return None
        found.append(one)
    return found


@contextmanager
def plain_products() -> Iterator[None]:
    """Let torch's own products run meanwhile, to measure or to check against them."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Whether the products are there for a number type on this machine, and give what torch's own give."""
    if platform.machine().lower() not in ("x86_64", "amd64") or dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator().manual_seed(0)
    states, weight, add = (torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 64), (48, 64), (3, 48)))
    relative, absolute = (1e-5, 1e-4) if dtype == torch.float32 else (2e-2, 5e-2)
    try:
        with torch.inference_mode():
            if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return False
            found, plain = LaidOut(weight), linear(states, weight)
            pairs = [(found.product(states), plain), (found.product(states, add=add), plain + add)]
            return all(torch.allclose(one, other, rtol=relative, atol=absolute) for one, other in pairs)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _mark(weight: Tensor) -> tuple[int, int, tuple[int, ...]]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version, tuple(weight.shape)


def _answer(layer: Any, input: Tensor) -> Tensor:
    found = laid_out([layer])
    if found is None or input.dtype != layer.weight.dtype:
        return linear(input, layer.weight, layer.bias)
    if torch.is_grad_enabled() and (input.requires_grad or (layer.bias is not None and layer.bias.requires_grad)):
        result: Tensor = _Product.apply(input, found[0], layer.weight, layer.bias)  # type: ignore[no-untyped-call]
        return result
    return found[0].product(input, layer.bias)


class _Product(torch.autograd.Function):
    """The product of states with a frozen weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, laid: LaidOut, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return laid.product(states, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_bias = grads[0].flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return grads[0] @ ctx.weight, None, None, to_bias
