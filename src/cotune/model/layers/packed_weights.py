"""Frozen weights in the layout that the processor's matrix products read fastest.

Before a product, oneDNN brings a weight into an order of its own, each time anew; and for fp32 torch asks another library on
most processors. A frozen weight can be brought into that order once. On two cores with AVX512 all products of ``smollm2-135m``
then took .69 of the time for 1 and 60 tokens, .88 for 220 and .87 for 1,900 in bfloat16, and .63, .75 and .84 in fp32. In
bfloat16 the numbers were the same to the bit, in fp32 they differ in the order of sums. The price is a second copy of the
weights, so models that are large beside what is free keep to torch's own products, as do processors on which this was not
measured. The operations are those that torch's compiler uses for frozen weights
(``torch/_inductor/fx_passes/mkldnn_fusion.py``); each is tried on each shape before it is taken.

Products with the transposed weight, which gradients take, stay torch's own: a third copy took 3% off a training step in
bfloat16, which was not told from noise, and 6% in fp32.
"""

from __future__ import annotations

import platform
import weakref
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import linear

from cotune.model.layers.swap import Place, StandIn, install, layers_without, without

_LAYOUT_ROWS = 512
_PART_OF_FREE = 8


class Prepacked:
    """A frozen weight ``[outputs, inputs]`` in the processor's own layout.

    Args:
        weight: on the CPU; not kept.
    """

    def __init__(self, weight: Tensor) -> None:
        with torch.no_grad():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _LAYOUT_ROWS)

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


class _Watched:
    """A layer's weight as it was prepacked, and whether it still is what the layer has.

    Its memory is kept: nothing else comes to lie at its address then.
    """

    def __init__(self, weight: Tensor) -> None:
        self.packed = Prepacked(weight)
        self._mark, self._storage = _mark(weight), weight.untyped_storage()
        self._source = weakref.ref(weight)

    def is_of(self, weight: Tensor) -> bool:
        """Not once it was moved, or changed other than through ``.data``."""
        return self._source() is weight and _mark(weight) == self._mark

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watched:
        # Of a copied layer, whose weight lies elsewhere, this is no more.
        return self


class PackedLinear(StandIn, Linear):
    """A linear layer that answers by its prepacked weight, as long as that is its weight and frozen.

    Args:
        layer: with a frozen weight on the CPU.
    """

    place = Place.PREPACKED

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer)
        self.watched = _Watched(layer.weight)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad and prepacked(self) is not None:
            result: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
            return result
        return product(self, input)


def prepack(model: torch.nn.Module, memory: int) -> int:
    """Prepack the weights of a model's linear layers, which answer by them from now on as long as they are frozen.

    Args:
        model: with its weights on one device; layers that are trained are left.
        memory: bytes that are free; the weights may take an eighth of it.

    Returns:
        How many layers; 0 where the processor is another, its products do not give what torch's own give, or the model is too
        large.
    """
    found = layers_without(model, Place.PREPACKED)
    layers = [layer for layer in found if type(layer) is Linear and not layer.weight.requires_grad]
    weights = {id(layer.weight): layer.weight for layer in layers}.values()
    if sum(weight.nbytes for weight in weights) * _PART_OF_FREE > memory:
        return 0
    if not all(weight.device.type == "cpu" and can_prepack(weight.dtype) for weight in weights):
        return 0
    try:
        shapes = {tuple(weight.shape): weight for weight in weights}
        if not all(map(_same, shapes.values())):
            return 0
        packed = [PackedLinear(layer) for layer in layers]
    except (AttributeError, RuntimeError, TypeError):
        return 0
    install(model, packed)
    return len(packed)


def prepacked(layer: Linear) -> Prepacked | None:
    """A layer's prepacked weight; None where it has none, it is no longer the layer's, or the layer is trained."""
    if not isinstance(layer, PackedLinear):
        return None
    trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
    return layer.watched.packed if not trained and layer.watched.is_of(layer.weight) else None


def product(layer: Linear, states: Tensor, add: Tensor | None = None) -> Tensor:
    """What a linear layer answers, and ``add`` to it, by its prepacked weight if it has one; no gradients through that.

    Args:
        layer: with a weight ``[outputs, inputs]``.
        states: ``[..., inputs]``.
        add: ``[..., outputs]``.
    """
    found = prepacked(layer)
    if found is not None and states.dtype == layer.weight.dtype:
        return found.product(states, layer.bias, add)
    plain = linear(states, layer.weight, layer.bias)
    return plain if add is None else plain + add


def plain_products(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Let torch's own products run in a model meanwhile, to measure or to check against them."""
    return without(model, PackedLinear)


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this processor is of the kind on which it was measured to pay, for a number type that it multiplies."""
    if platform.machine().lower() not in ("x86_64", "amd64") or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _same(weight: Tensor) -> bool:
    """Whether products with a weight of this shape are those of torch."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = weight.shape
    states, bias, add = (torch.randn(shape, generator=generator) for shape in ((3, inputs), (outputs,), (3, outputs)))
    states, bias, add = (tensor.to(weight.dtype) for tensor in (states, bias, add))
    with torch.no_grad():
        packed, plain = Prepacked(weight), linear(states, weight, bias)
        pairs = [(packed.product(states, bias), plain), (packed.product(states, bias, add), plain + add)]
    scale = float(plain.abs().max())
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    return all(torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale) for one, other in pairs)


def _mark(weight: Tensor) -> tuple[object, ...]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype, tuple(weight.shape)


class _Product(torch.autograd.Function):
    """The product of states with a frozen layer's weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Linear) -> Tensor:
        ctx.weight = layer.weight
        return product(layer, states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.weight, None
