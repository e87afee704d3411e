"""Norms and gated feed-forward layers with fewer passes over memory than transformers' own, with the same results.

On a CPU a layer's elementwise work costs nearly as much as its products: each operation reads and writes the states of all
tokens, and transformers writes a norm as five of them and a gate as two with new memory each. Here a norm is three and a gate
works in place; trained through, both keep the least that their gradients need. Behind the last layer's attention no token sees
another, so its feed-forward layer runs only where a state is read. The modules stay in place with their weights and names; each
is compared with its former self before it is taken.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from cotune.model.engine.attention import read_places

_PROBE_ROWS = 3
_SILU = ("SiLU", "SiLUActivation")


def make_lean(model: torch.nn.Module) -> int:
    """Replace the forward pass of root-mean-square norms and SiLU-gated feed-forward layers of a model on CPU.

    A module is taken only where its new pass gives what its own pass gave on random states, so norms of other forms
    (Gemma's, which scale by one plus the weight) stay as they are. Calling it again changes nothing.

    Args:
        model: in evaluation mode.

    Returns:
        How many modules were replaced.
    """
    replaced = 0
    # Modules of one class, width and epsilon run the same code, so one of them speaks for all.
    found: dict[tuple[object, ...], bool] = {}
    last = _last_gated(model)
    for module in model.modules():
        lean = _candidate(module)
        if lean is None or "forward" in vars(module):
            continue
        kind = (type(module), _weight(module).shape, _epsilon(module))
        if kind not in found:
            found[kind] = _same(module, lean)
        if found[kind]:
            module.forward = MethodType(_gated_at_end if module is last else lean, module)
            replaced += 1
    return replaced


def _candidate(module: torch.nn.Module) -> Any:
    if type(module).__name__.endswith("RMSNorm"):
        weight = getattr(module, "weight", None)
        fits = isinstance(weight, Tensor) and weight.dim() == 1 and weight.device.type == "cpu"
        return _norm if fits and _epsilon(module) is not None else None
    if all(isinstance(getattr(module, name, None), torch.nn.Linear) for name in ("gate_proj", "up_proj", "down_proj")):
        fits = type(getattr(module, "act_fn", None)).__name__ in _SILU
        return _gated if fits and module.gate_proj.weight.device.type == "cpu" else None  # type: ignore[union-attr]
    return None


def _last_gated(model: Any) -> Any:
    """The feed-forward layer behind which no token sees another."""
    layers = getattr(model.get_decoder(), "layers", None) if hasattr(model, "get_decoder") else None
    found = getattr(layers[-1], "mlp", None) if isinstance(layers, torch.nn.ModuleList) and len(layers) else None
    return found if hasattr(found, "gate_proj") else None


def _same(module: torch.nn.Module, lean: Any) -> bool:
    weight = _weight(module)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, _PROBE_ROWS, weight.shape[-1], generator=generator).to(weight.dtype)
    with torch.no_grad():
        plain, found = module(states), lean(module, states)
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    absolute = tolerance * float(plain.abs().max())
    return plain.dtype == found.dtype and torch.allclose(plain, found, rtol=tolerance, atol=absolute)


def _weight(module: Any) -> Tensor:
    weight: Tensor = module.gate_proj.weight if hasattr(module, "gate_proj") else module.weight
    return weight


def _epsilon(module: Any) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(found) if isinstance(found, float | int) else None


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    epsilon: float = _epsilon(module)  # type: ignore[assignment]
    if torch.is_grad_enabled() and hidden_states.requires_grad:
        result: Tensor = _Norm.apply(hidden_states, module.weight, epsilon)  # type: ignore[no-untyped-call]
        return result
    return _scaled(hidden_states, _inverse(hidden_states, epsilon)).mul_(_weight(module))


def _inverse(states: Tensor, epsilon: float) -> Tensor:
    """One over the root mean square of each state, in fp32."""
    length: Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()


def _scaled(states: Tensor, inverse: Tensor) -> Tensor:
    return (states * inverse).to(states.dtype)


def _gated(module: Any, x: Tensor, ends: bool = False) -> Tensor:
    places = read_places(module, ends)
    if places is None:
        return _gated_everywhere(module, x)
    found = torch.zeros_like(x)
    return found.index_copy(1, places, _gated_everywhere(module, x.index_select(1, places))) if len(places) else found


def _gated_at_end(module: Any, x: Tensor) -> Tensor:
    return _gated(module, x, ends=True)


def _gated_everywhere(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        inner: Tensor = _Gate.apply(gate, up)  # type: ignore[no-untyped-call]
    else:
        inner = silu(gate, inplace=True).mul_(up)
    result: Tensor = module.down_proj(inner)
    return result


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
    """``silu(gate) * up``; the activation is made again backward instead of being kept."""

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
