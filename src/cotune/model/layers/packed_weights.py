"""Frozen weights prepacked in the processor's preferred layout for matrix products.

Before each product, oneDNN reorders the weight; and for fp32 torch uses another library on most processors. A frozen weight can
be reordered once. On two cores with AVX512 all products of ``smollm2-135m`` then took 0.69 of the time for 1 and 60 tokens,
0.88 for 220 and 0.87 for 1,900 in bfloat16, and 0.63, 0.75 and 0.84 in fp32. In bfloat16 the results were identical; in fp32
the order of sums differs. The cost is a second copy of the weights. So models that are large relative to the free memory use
torch's own products, and so do processors on which this was not measured. The operations are those that torch's compiler uses
for frozen weights (``torch/_inductor/fx_passes/mkldnn_fusion.py``); each is tested on each shape before it is used.

Products with the transposed weight, for gradients, remain torch's own: a third copy made a training step faster by 3% in
bfloat16, which is within noise, and 6% in fp32.
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
    """A frozen weight ``[outputs, inputs]`` on the CPU in the processor's own layout."""

    def __init__(self, weight: Tensor) -> None:
        with torch.no_grad():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _LAYOUT_ROWS)
        # A reference to the weight's memory, so that no other tensor gets the same address.
        self._mark, self._storage = _mark(weight), weight.untyped_storage()
        self._source = weakref.ref(weight)

    def is_of(self, weight: Tensor) -> bool:
        """False if the weight is another one, was moved, or changed other than through ``.data``."""
        return self._source() is weight and _mark(weight) == self._mark

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepacked:
        # Copies of a layer have another weight.
        return self

    def product(self, states: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """``states @ weight.T + bias + add``; no gradients."""
        if add is None:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, bias, "none", [], "")
        else:
            packed = torch.ops.mkldnn._linear_pointwise.binary(states, add, self._weight, bias, "add")
        return packed


class PackedLinear(StandIn, Linear):
    """A linear layer that uses its prepacked weight while its weight is unchanged and frozen."""

    place = Place.PREPACKED

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer)
        self.packed = Prepacked(layer.weight)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad and prepacked(self) is not None:
            result: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
            return result
        return product(self, input)


def prepack(model: torch.nn.Module, memory: int) -> int:
    """Prepack the weights of a model's linear layers, which use them while they are frozen; trained layers are skipped.

    Args:
        model: model with its weights on one device.
        memory: free bytes; the weights may take an eighth of them.

    Returns:
        The number of layers; 0 if the processor is of another kind, its products differ from torch's own, or the model is too
        large.
    """
    candidates = layers_without(model, Place.PREPACKED)
    layers = [layer for layer in candidates if type(layer) is Linear and not layer.weight.requires_grad]
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
    """A layer's prepacked weight; None if there is none, it is out of date, or the layer is trained."""
    if not isinstance(layer, PackedLinear):
        return None
    trained = layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
    return layer.packed if not trained and layer.packed.is_of(layer.weight) else None


def product(layer: Linear, states: Tensor, add: Tensor | None = None) -> Tensor:
    """Output of a linear layer plus ``add``, by its prepacked weight if it has one (without gradients)."""
    packed = prepacked(layer)
    if packed is not None and states.dtype == layer.weight.dtype:
        return packed.product(states, layer.bias, add)
    plain = linear(states, layer.weight, layer.bias)
    return plain if add is None else plain + add


def plain_products(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Use torch's own products in a model until the block ends, for measurements and checks."""
    return without(model, PackedLinear)


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether prepacking was measured to be faster on this kind of processor, for a dtype that it supports."""
    if platform.machine().lower() not in ("x86_64", "amd64") or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _same(weight: Tensor) -> bool:
    """Whether products with a weight of this shape equal those of torch."""
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
    """Product of states with a frozen layer's weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: Linear) -> Tensor:
        ctx.weight = layer.weight
        return product(layer, states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.weight, None
