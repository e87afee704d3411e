"""Decoders that run some of a model's layers: up to the one that is read (early exit), or a window of layers.

A hidden state after ``depth`` layers needs none of the layers above, and tuning a window of layers needs none below it once
the states at its lower edge are known. The parts share every module with the model, so adapters and prepacked weights serve
them too.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_EPSILON = 1e-6
"""Of models whose config names none."""


def depth_of(model: Any) -> int:
    """Number of layers of a causal language model."""
    return int(model.config.get_text_config().num_hidden_layers)


def cut_decoder(decoder: Any, first: int, last: int) -> nn.Module:
    """A decoder that runs layers ``first`` to ``last`` (exclusive) of another and no final norm.

    With ``first`` above 0 it takes ``inputs_embeds``: the states after ``first`` layers. Call it anew after the model's
    attention implementation has changed, since the copy has a config of its own.

    Args:
        decoder: a transformers decoder with a ``ModuleList`` of layers and a final ``norm``; it stays as it is.
        first: layers to leave out at the bottom.
        last: layers that the result ends after.

    Raises:
        AttributeError: the decoder does not show its layers.
    """
    layers = list(decoder.layers)[first:last]
    part = copy.copy(decoder)
    # ``copy.copy`` of a module shares its table of modules.
    part.__dict__["_modules"] = dict(decoder._modules)
    part.layers, part.norm = nn.ModuleList(layers), nn.Identity()
    # A minimal decoder runs whatever layers it has.
    if "config" in vars(decoder):
        part.config = _cut_config(decoder.config, first, last)
    return part  # type: ignore[no-any-return]


def _cut_config(config: Any, first: int, last: int) -> Any:
    """A decoder's config for some of its layers; the attention modules keep the whole one."""
    found = copy.copy(config)
    # Read through ``__dict__``: some configs answer to names that they do not hold.
    kinds = vars(found).get("layer_types")
    found.num_hidden_layers = last - first
    if kinds is not None:
        found.layer_types = list(kinds)[first:last]
    return found


def unit_rms(states: Tensor, epsilon: float) -> Tensor:
    """States divided by their root mean square, in fp32: what a final norm of unit weight makes of them.

    Args:
        states: ``[..., width]``.
        epsilon: added to the mean square.
    """
    wide = states.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)


def norm_epsilon(model: Any) -> float:
    """What a model's norms add to the mean square."""
    config = model.config.get_text_config()
    return float(getattr(config, "rms_norm_eps", None) or getattr(config, "layer_norm_eps", None) or _EPSILON)
