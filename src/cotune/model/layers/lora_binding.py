"""LoRA weights bound to a model's own linear layers, to score and write with an adapter that is not trained on.

To import peft and have it wrap every layer takes longer than to answer a few rows. What runs here are the groups of
:mod:`cotune.model.layers.fused_lora` as they run under peft, so the numbers are the same to the bit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from cotune.errors import InputError
from cotune.model.layers.fused_lora import LoraGroup, LoraLayer, layers_by_input

Named = Mapping[str, Linear]
"""Linear layers by their names in the model."""


_LAYER = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")
"""Where a module's name tells the number of its decoder layer."""


def layer_number(name: str) -> int | None:
    """Number of the decoder layer that a module belongs to, by its name; None where it belongs to none."""
    found = _LAYER.search(f".{name}.")
    return int(found[1]) if found else None


def linear_groups(model: Any, targets: Collection[str], layers: Collection[int] = ()) -> list[Named] | None:
    """The layers that peft would adapt, those that read one tensor together.

    Args:
        model: the transformers model, not wrapped.
        targets: names of layers, as peft matches them: whole, or the end behind a dot.
        layers: numbers of the decoder layers that count; none means all.

    Returns:
        None where there is none, or where one is no plain linear layer or is not reached by the decoder: peft is needed then.
    """
    ends = tuple(f".{target}" for target in targets)
    found = {name: module for name, module in model.named_modules() if name in targets or name.endswith(ends)}
    if layers:
        found = {name: module for name, module in found.items() if layer_number(name) in layers}
    if any(type(module) is not Linear for module in found.values()):
        return None
    names = {id(module): name for name, module in found.items()}
    groups = layers_by_input(model, list(found.values()))
    if not groups or sum(map(len, groups)) != len(found):
        return None
    return [{names[id(module)]: module for module in group} for group in groups]


class BoundLora:
    """LoRA weights over a model's linear layers, which answer with them while :attr:`enabled`.

    Args:
        groups: what :func:`linear_groups` found.
        rank: inner width of the updates.
        scale: of the updates.
    """

    def __init__(self, groups: Sequence[Named], rank: int, scale: float) -> None:
        self.enabled = False
        self._table: dict[str, Tensor] = {}
        self._before: list[tuple[Linear, Any]] = []
        # What is made in inference mode does not tell when it changes.
        with torch.inference_mode(False):
            for named in groups:
                group = LoraGroup([self._layer(name, base, rank, scale) for name, base in named.items()])
                for number, base in enumerate(named.values()):
                    self._before.append((base, vars(base).get("forward")))
                    base.forward = functools.partial(self._answer, group, number, base.forward)  # type: ignore[method-assign]

    def _layer(self, name: str, base: Linear, rank: int, scale: float) -> LoraLayer:
        down = torch.zeros(rank, base.in_features, device=base.weight.device)
        up = torch.zeros(base.out_features, rank, device=base.weight.device)
        self._table[f"base_model.model.{name}.lora_A.weight"] = down
        self._table[f"base_model.model.{name}.lora_B.weight"] = up
        return LoraLayer(base, down, up, scale)

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Take over weights under peft's file names, and enable them.

        Raises:
            InputError: they are of other layers or of another shape; nothing changes then.
        """
        copy_weights(weights, self._table)
        self.enabled = True

    def release(self) -> None:
        """Give the layers back as they were."""
        for base, forward in self._before:
            del base.forward
            if forward is not None:
                base.forward = forward  # type: ignore[method-assign]

    def _answer(self, group: LoraGroup, number: int, plain: Any, input: Tensor) -> Tensor:
        if self.enabled:
            return group.output(number, input)
        # Exactly what ran before: the base model's scores must not hang on an adapter.
        base: Tensor = plain(input)
        return base


def copy_weights(weights: Mapping[str, Tensor], table: Mapping[str, Tensor]) -> None:
    """Copy an adapter's weights into those of the same names.

    Raises:
        InputError: names or shapes differ; nothing is copied then.
    """
    odd = sorted(set(table) ^ set(weights)) or [name for name in table if table[name].shape != weights[name].shape]
    if odd:
        raise InputError(f"the adapter does not fit this model (at {odd[0]})", hint="Use the model it was trained on.")
    with torch.no_grad():
        for name, value in weights.items():
            table[name].copy_(value)
