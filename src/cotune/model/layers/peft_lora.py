"""Trainable layers of peft, computed by the groups of :mod:`cotune.model.layers.fused_lora`. Importing this imports peft."""

from __future__ import annotations

from typing import Any, cast

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from cotune.model.layers.fused_lora import LoraLayer, LoraUpdate, install_groups, layers_by_input
from cotune.model.layers.swap import original

_ADAPTER = "default"


class FusedLinear(LoraLayer, Linear):  # type: ignore[misc]
    """Replaces a plain LoRA layer of peft and still counts as one, so that peft enables it and finds its weights by name."""

    def __init__(self, layer: Any) -> None:
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        super().__init__(layer, LoraUpdate(down, up, float(layer.scaling[_ADAPTER])))

    @property
    def base(self) -> nn.Linear:
        return cast(nn.Linear, self.base_layer)

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        if rest or more:
            result: Tensor = super().forward(x, *rest, **more)
            return result
        if self.disable_adapters:
            # Exactly the computation before peft wrapped the layer: the base model's scores must not depend on that.
            base: Tensor = self.base(x)
            return base
        return self.group.output(self.number, x)


def fuse(model: Any) -> None:
    """Replace the LoRA layers of a model that peft has wrapped by groups of fused layers.

    Layers that are not a plain LoRA on a plain linear layer keep peft's own forward pass.
    """
    groups = layers_by_input(model, [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)])
    install_groups(model, [[FusedLinear(layer) for layer in group] for group in groups])


def _is_plain(layer: Any) -> bool:
    return (
        type(original(layer.base_layer)) is nn.Linear
        and not layer.lora_variant
        and list(layer.lora_A) == [_ADAPTER]
        and layer.lora_A[_ADAPTER].bias is None
        and layer.lora_B[_ADAPTER].bias is None
    )
