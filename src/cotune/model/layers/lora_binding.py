"""LoRA weights on a model's own linear layers, for scoring and generating with an adapter that is not trained further.

Importing peft and wrapping every layer takes longer than answering a few rows. This uses the same groups of
:mod:`cotune.model.layers.fused_lora` as under peft, so the numbers are identical.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from cotune.errors import InputError
from cotune.model.layers.fused_lora import LoraLayer, LoraUpdate, install_groups, layers_by_input
from cotune.model.layers.swap import original, remove

Named = Mapping[str, Linear]
"""Linear layers by their names in the model."""
_LAYER = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")
"""Pattern of the layer number in a module's name."""


def layer_number(name: str) -> int | None:
    """Number of the decoder layer in a module's name; None if it belongs to none."""
    match = _LAYER.search(f".{name}.")
    return int(match[1]) if match else None


def linear_groups(model: Any, targets: Collection[str], layers: Collection[int] = ()) -> list[Named] | None:
    """The layers that peft would adapt, grouped by input.

    Args:
        model: the transformers model, not wrapped.
        targets: names of layers, as peft matches them: whole, or the end behind a dot.
        layers: numbers of the decoder layers to adapt; empty for all.

    Returns:
        None if there are none, or if one is no plain linear layer or is not reached by the decoder; peft is needed then.
    """
    ends = tuple(f".{target}" for target in targets)
    linears = {name: module for name, module in model.named_modules() if name in targets or name.endswith(ends)}
    if layers:
        linears = {name: module for name, module in linears.items() if layer_number(name) in layers}
    if any(type(original(module)) is not Linear for module in linears.values()):
        return None
    names = {id(module): name for name, module in linears.items()}
    groups = layers_by_input(model, list(linears.values()))
    if not groups or sum(map(len, groups)) != len(linears):
        return None
    return [{names[id(module)]: module for module in group} for group in groups]


class BoundLinear(LoraLayer, Linear):
    """A linear layer with a LoRA update of some rank and scale, which its owner enables and disables."""

    def __init__(self, base: Linear, rank: int, scale: float, owner: BoundLora) -> None:
        down = torch.zeros(rank, base.in_features, device=base.weight.device)
        up = torch.zeros(base.out_features, rank, device=base.weight.device)
        super().__init__(base, LoraUpdate(down, up, scale))
        self.owner = owner

    @property
    def base(self) -> Linear:
        return self.inner  # type: ignore[return-value]

    def forward(self, input: Tensor) -> Tensor:
        if self.owner.enabled:
            return self.group.output(self.number, input)
        # Exactly the base model's computation, whose scores must not depend on an adapter.
        return self.base.forward(input)


class BoundLora:
    """LoRA weights of some rank and scale on groups from :func:`linear_groups`, applied while :attr:`enabled`."""

    def __init__(self, model: Any, groups: Sequence[Named], rank: int, scale: float) -> None:
        self.enabled = False
        self._model = model
        # Tensors created in inference mode have no version counter.
        with torch.inference_mode(False):
            bound = [{name: BoundLinear(base, rank, scale, self) for name, base in named.items()} for named in groups]
            install_groups(model, [list(named.values()) for named in bound])
        layers = dict(chain.from_iterable(named.items() for named in bound))
        self._table = {f"base_model.model.{name}.lora_A.weight": layer.update.down for name, layer in layers.items()}
        self._table |= {f"base_model.model.{name}.lora_B.weight": layer.update.up for name, layer in layers.items()}

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights under peft's names, and enable them; errors as of :func:`copy_weights`."""
        copy_weights(weights, self._table)
        self.enabled = True

    def release(self) -> None:
        for layer in remove(self._model, BoundLinear):
            # Break the reference cycle, which would hold the memory until the next garbage collection.
            del layer.group


def copy_weights(weights: Mapping[str, Tensor], table: Mapping[str, Tensor]) -> None:
    """Copy an adapter's weights to the tensors of the same names.

    Raises:
        InputError: if names or shapes differ; nothing is copied then.
    """
    odd = sorted(set(table) ^ set(weights)) or [name for name in table if table[name].shape != weights[name].shape]
    if odd:
        raise InputError(f"the adapter does not fit this model (at {odd[0]})", hint="Use the model it was trained on.")
    with torch.no_grad():
        for name, value in weights.items():
            table[name].copy_(value)
