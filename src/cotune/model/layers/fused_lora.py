"""LoRA layers that share an input, run as few large matrix products instead of many small ones.

peft runs every adapted layer by itself: three products and several casts forward, twice that backward. Where layers read the
same states (query, key and value; gate and up), their frozen weights and all their down-projections are stacked into one matrix
here, and their up-projections into one block-diagonal matrix, so a group of layers costs two products forward and five
backward. Where frozen weights are prepacked for the processor (:mod:`cotune.model.layers.packed_weights`), each layer has
a product to itself, and the update is added within it. The products run in the model's own number type; the trained weights and
their gradients stay in fp32, as in mixed-precision training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cotune.model.engine.attention import use_plain_attention
from cotune.model.layers.packed_weights import prepacked, product
from cotune.model.layers.swap import Place, StandIn, install


@dataclass(frozen=True)
class LoraUpdate:
    """A LoRA update of a linear layer.

    Attributes:
        down: ``[rank, inputs]`` in fp32.
        up: ``[outputs, rank]`` in fp32.
    """

    down: Tensor
    up: Tensor
    scale: float


class LoraLayer(StandIn):
    """A linear layer with a LoRA update, computed by the products of its group.

    Attributes:
        group: the group of layers with the same input; see :func:`install_groups`.
        number: its index in the group.
    """

    place = Place.LORA
    group: LoraGroup
    number: int

    def __init__(self, layer: nn.Module, update: LoraUpdate) -> None:
        super().__init__(layer)
        self.update = update

    @property
    @abstractmethod
    def base(self) -> nn.Linear:
        """The frozen layer, or its replacement."""


class LoraGroup:
    """Adapted layers with the same input, of one width and dtype, in the order of their calls."""

    def __init__(self, layers: Sequence[LoraLayer]) -> None:
        self.layers = list(layers)
        self.outputs = [int(layer.base.weight.shape[0]) for layer in self.layers]
        self._updates = [layer.update for layer in self.layers]
        self._factors = [factor for update in self._updates for factor in (update.down, update.up)]
        # Slices of each layer's outputs and inner states in the stacked ones.
        self._outputs, self._inner = _slices(self.outputs), _slices([int(update.down.shape[0]) for update in self._updates])
        self._input: Tensor | None = None
        self._pending: dict[int, Tensor] = {}
        self._arrange()

    def _arrange(self) -> None:
        """Allocate the stacked weights, depending on whether the frozen weights are prepacked."""
        bases = [layer.base for layer in self.layers]
        width, rank, first = self._outputs[-1].stop, self._inner[-1].stop, bases[0].weight
        self._seen: list[int] = []
        self._bias: Tensor | None = None
        self._up = first.new_zeros(width, rank)
        # Prepacked weights are used separately; others are stacked above the down-projections.
        self._stacked = 0 if all(map(prepacked, bases)) else width
        self._down = first.new_empty(self._stacked + rank, first.shape[1])
        if self._stacked:
            self._stack(bases)

    def _stack(self, bases: Sequence[torch.nn.Linear]) -> None:
        for base, outputs in zip(bases, self._outputs, strict=True):
            self._down[outputs].copy_(base.weight.data)
            # The layer's own weight becomes a view, so that memory holds it once.
            base.weight.data = self._down[outputs]
        if any(base.bias is not None for base in bases):
            self._bias = self._down.new_zeros(len(self._down))
            for base, outputs in zip(bases, self._outputs, strict=True):
                if base.bias is not None:
                    self._bias[outputs] = base.bias.data

    def output(self, number: int, x: Tensor) -> Tensor:
        """Output of layer ``number`` for ``x``; the whole group is computed when its first layer is called."""
        if self._input is not x or number not in self._pending:
            self._run(x)
        result = self._pending.pop(number)
        if not self._pending:
            self._input = None
        return result

    def _run(self, x: Tensor) -> None:
        if self._stacked and all(prepacked(layer.base) for layer in self.layers):
            # They were prepacked after the adapter was added. Tensors created in inference mode could not be written outside
            # it.
            with torch.inference_mode(False):
                self._arrange()
        factors = self._factors
        self._refresh()
        states = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled() and (states.requires_grad or any(f.requires_grad for f in factors)):
            parts: Sequence[Tensor] = _Grouped.apply(self, states, *factors)  # type: ignore[no-untyped-call]
            # A fused optimizer changes weights without increasing their version, so reload after training.
            self._seen = []
        else:
            parts, _ = self.forward(states)
        if len(parts) < len(self.layers):
            parts = torch.split_with_sizes(parts[0], self.outputs, -1)
        self._input, self._pending = x, {i: part.view(*x.shape[:-1], -1) for i, part in enumerate(parts)}

    def forward(self, states: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Outputs ``[tokens, width]`` of each layer, or all in one, and the inner states ``[tokens, all ranks]``."""
        if self._stacked:
            both = linear(states, self._down, self._bias)
            inner = both[:, self._stacked :]
            return (both[:, : self._stacked].addmm_(inner, self._up.t()),), inner
        inner = linear(states, self._down)
        results = []
        for layer, outputs, own in zip(self.layers, self._outputs, self._inner, strict=True):
            results.append(product(layer.base, states, add=inner[:, own] @ self._up[outputs, own].t()))
        return tuple(results), inner

    def backward(self, grad: Tensor, states: Tensor, inner: Tensor, *, to_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the states and, alternating for each layer, of its down- and up-projection, those in fp32."""
        to_inner = grad @ self._up
        to_states = self._to_states(grad, to_inner) if to_input else None
        down, up = to_inner.t() @ states, grad.t() @ inner
        gradients: list[Tensor] = []
        for outputs, own, update in zip(self._outputs, self._inner, self._updates, strict=True):
            gradients.append(down[own].float())
            gradients.append(up[outputs, own].float() * update.scale)
        return to_states, gradients

    def _to_states(self, grad: Tensor, to_inner: Tensor) -> Tensor:
        update = to_inner @ self._down[self._stacked :]
        if self._stacked:
            return update.addmm_(grad, self._down[: self._stacked])
        for layer, outputs in zip(self.layers, self._outputs, strict=True):
            update.addmm_(grad[:, outputs], layer.base.weight)
        return update

    def _refresh(self) -> None:
        """Copy trained weights that changed since the last pass."""
        seen = [factor._version for factor in self._factors]
        if seen == self._seen:
            return
        down = self._down[self._stacked :]
        with torch.no_grad():
            for outputs, own, update in zip(self._outputs, self._inner, self._updates, strict=True):
                down[own].copy_(update.down)
                self._up[outputs, own].copy_(update.up * update.scale)
        self._seen = seen


def _slices(widths: Sequence[int]) -> list[slice]:
    """Slices of consecutive parts of these widths."""
    ends = list(accumulate(widths))
    return [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]


class _Grouped(torch.autograd.Function):
    """A group's products; the LoRA weights are inputs only so that autograd returns their gradients."""

    @staticmethod
    def forward(ctx: Any, group: LoraGroup, states: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        parts, inner = group.forward(states)
        ctx.group = group
        # A copy, since a view would keep the whole stacked output in memory.
        ctx.save_for_backward(states, inner.contiguous())
        return parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, inner = ctx.saved_tensors
        grad = torch.cat(grads, -1) if len(grads) > 1 else grads[0]
        to_states, gradients = ctx.group.backward(grad, states, inner, to_input=ctx.needs_input_grad[1])
        return None, to_states, *gradients


def install_groups(model: Any, groups: Sequence[Sequence[LoraLayer]]) -> None:
    """Replace a model's layers by LoRA layers, grouped by input.

    Raises:
        ValueError: if a layer already has a LoRA layer.
    """
    for layers in groups:
        group = LoraGroup(layers)
        for number, layer in enumerate(layers):
            layer.group, layer.number = group, number
    install(model, chain.from_iterable(groups))


def layers_by_input(model: Any, layers: Sequence[Any]) -> list[list[Any]]:
    """Group linear layers, wrapped by peft or not, by the tensor that they read, in the order of their calls.

    A short pass with hooks finds which layers get the same tensor, which works for any architecture. Layers that the pass does
    not reach are left out.
    """
    groups: list[list[Any]] = []
    placed: set[int] = set()
    last: Tensor | None = None

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal last
        x, before = inputs[0], last
        last = x
        if id(layer) in placed:
            return
        placed.add(id(layer))
        if groups and before is x and groups[-1][0].weight.dtype == layer.weight.dtype:
            groups[-1].append(layer)
        else:
            groups.append([layer])

    if not layers:
        return []
    use_plain_attention(model)
    with ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(note))
        ids = torch.zeros(1, 2, dtype=torch.long, device=layers[0].weight.device)
        model.get_decoder()(input_ids=ids, use_cache=False)
    return groups
