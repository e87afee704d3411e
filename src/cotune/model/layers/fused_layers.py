"""Norms and gated feed-forward layers with fewer passes over memory than transformers' own, with the same results.

On a CPU a layer's elementwise work costs nearly as much as its products: each operation reads and writes the states of all
tokens, and transformers writes a norm as five of them and a gate as two with new memory each. Here a norm is three and a gate
works in place; in training, both keep only what their gradients need. Behind the last layer's attention no token sees
another, so its feed-forward layer runs only where a state is read. Each replacement is compared with its layer before it is
used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import silu

from cotune.model.engine.attention import read_places
from cotune.model.layers.swap import Place, StandIn, install, layers_without, original

_PROBE_ROWS = 3
_SILU = ("SiLU", "SiLUActivation")


def make_lean(model: Module) -> int:
    """Replace root-mean-square norms and SiLU-gated feed-forward layers of a model on CPU by faster ones.

    A layer is replaced only if its replacement gives the same results on random states, so that other norms (Gemma's, which
    scale by one plus the weight) stay. Further calls do nothing. Returns the number of replaced layers.
    """
    taken: list[LeanNorm | LeanGated] = []
    # Layers of one class, width and epsilon run the same code, so one of them is tested for all.
    equal: dict[tuple[object, ...], bool] = {}
    last = _last_gated(model)
    for layer in layers_without(model, Place.LEAN):
        lean = _stand_in(layer, layer is last)
        if lean is None:
            continue
        kind = (type(layer), _weight(layer).shape, _epsilon(layer))
        if kind not in equal:
            equal[kind] = _same(layer, lean)
        if equal[kind]:
            taken.append(lean)
    install(model, taken)
    return len(taken)


class LeanNorm(StandIn):
    """A root-mean-square norm."""

    place = Place.LEAN

    def __init__(self, norm: Module) -> None:
        super().__init__(norm)
        self.own_epsilon: float = _epsilon(norm)  # type: ignore[assignment]

    def forward(self, hidden_states: Tensor) -> Tensor:
        if torch.is_grad_enabled() and hidden_states.requires_grad:
            result: Tensor = _Norm.apply(hidden_states, _weight(self), self.own_epsilon)  # type: ignore[no-untyped-call]
            return result
        return _scaled(hidden_states, _inverse(hidden_states, self.own_epsilon)).mul_(_weight(self))


class LeanGated(StandIn):
    """A feed-forward layer of a SiLU gate; ``ends`` says that no token attends to another behind it."""

    place = Place.LEAN

    def __init__(self, gated: Module, ends: bool) -> None:
        super().__init__(gated)
        self.ends_model = ends

    def forward(self, x: Tensor) -> Tensor:
        places = read_places(self, self.ends_model)
        if places is None:
            return self._everywhere(x)
        out = torch.zeros_like(x)
        return out.index_copy(1, places, self._everywhere(x.index_select(1, places))) if len(places) else out

    def _everywhere(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)  # type: ignore[operator]
        if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
            inner: Tensor = _Gate.apply(gate, up)  # type: ignore[no-untyped-call]
        else:
            inner = silu(gate, inplace=True).mul_(up)
        result: Tensor = self.down_proj(inner)  # type: ignore[operator]
        return result


def _stand_in(layer: Module, ends: bool) -> LeanNorm | LeanGated | None:
    if type(layer).__name__.endswith("RMSNorm"):
        weight = getattr(layer, "weight", None)
        fits = isinstance(weight, Tensor) and weight.dim() == 1 and weight.device.type == "cpu"
        return LeanNorm(layer) if fits and _epsilon(layer) is not None else None
    parts = [getattr(layer, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    # peft's wrappers count as the layers that they wrap.
    if all(isinstance(getattr(part, "base_layer", part), Linear) for part in parts):
        fits = type(getattr(layer, "act_fn", None)).__name__ in _SILU
        return LeanGated(layer, ends) if fits and _weight(layer).device.type == "cpu" else None
    return None


def _last_gated(model: Any) -> Module | None:
    """The last feed-forward layer, behind which no token attends to another."""
    layers = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    gated = getattr(layers[-1], "mlp", None) if isinstance(layers, torch.nn.ModuleList) and len(layers) else None
    return original(gated) if isinstance(gated, Module) else None


def _same(layer: Module, lean: LeanNorm | LeanGated) -> bool:
    weight = _weight(layer)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, _PROBE_ROWS, weight.shape[-1], generator=generator).to(weight.dtype)
    with torch.no_grad():
        plain, fast = layer(states), lean(states)
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    absolute = tolerance * float(plain.abs().max())
    return plain.dtype == fast.dtype and torch.allclose(plain, fast, rtol=tolerance, atol=absolute)


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.gate_proj.weight if hasattr(layer, "gate_proj") else layer.weight
    return weight


def _epsilon(layer: Module) -> float | None:
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    return float(epsilon) if isinstance(epsilon, float | int) else None


def _inverse(states: Tensor, epsilon: float) -> Tensor:
    """One over the root mean square of each state, in fp32."""
    length: Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def _scaled(states: Tensor, inverse: Tensor) -> Tensor:
    return (states * inverse).to(states.dtype)


class _Norm(torch.autograd.Function):
    """A root-mean-square norm whose weight is frozen or trained; keeps its input and one number a state."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = _inverse(states, epsilon)
        ctx.save_for_backward(states, weight, inverse)
        return _scaled(states, inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        states, weight, inverse = ctx.saved_tensors
        scaled = states * inverse
        weighted = grads[0] * weight
        along = torch.linalg.vecdot(weighted.float(), scaled).unsqueeze_(-1).div_(states.shape[-1])
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grads[0] * scaled).flatten(0, -2).sum(0).to(weight.dtype)
        dstates = torch.addcmul(weighted.float(), scaled, along, value=-1).mul_(inverse)
        return dstates.to(states.dtype), dweight, None


class _Gate(torch.autograd.Function):
    """``silu(gate) * up``; the activation is recomputed in the backward pass instead of being stored."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grads[0]
        dup = silu(gate).mul_(grad)
        dgate: Tensor = torch.ops.aten.silu_backward(grad * up, gate)
        return dgate, dup
