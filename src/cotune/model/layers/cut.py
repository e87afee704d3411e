"""Decoders that run some of a model's layers: up to the one that is read (early exit), or a window of layers.

A hidden state after ``depth`` layers needs none of the layers above, and tuning a window of layers needs none below it once
the states at its lower edge are known. The parts share every module with the model, so adapters and prepacked weights serve
them too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cotune.errors import InputError

_LAYERS = ("layers", "h", "blocks")
"""Names that decoders give to their list of layers."""
_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "final_norm")
"""Names that they give to the norm behind the last layer."""
_EPSILON = 1e-6
"""Of models whose config names none."""


def depth_of(model: Any) -> int:
    """Number of layers of a causal language model."""
    return int(model.config.get_text_config().num_hidden_layers)


def layers_of(decoder: Any) -> nn.ModuleList:
    """The layers of a decoder, in their order.

    Raises:
        InputError: it has no list of them under a known name.
    """
    return getattr(decoder, _layers_name(decoder))  # type: ignore[no-any-return]


def cut_decoder(decoder: Any, first: int, last: int) -> nn.Module:
    """A decoder that runs layers ``first`` to ``last`` (exclusive) of another and no final norm.

    With ``first`` above 0 its first layer has to be given states, see :func:`entering`. Call it anew after the model's
    attention implementation has changed, since the copy has a config of its own.

    Args:
        decoder: a transformers decoder with a ``ModuleList`` of layers and a final norm; it stays as it is.
        first: layers to leave out at the bottom.
        last: layers that the result ends after.

    Raises:
        InputError: the decoder does not show its layers or its final norm.
    """
    name = _layers_name(decoder)
    norms = [norm for norm in _NORMS if isinstance(decoder._modules.get(norm), nn.Module)]
    if not norms:
        raise _unknown(decoder, "its final norm")
    layers = list(getattr(decoder, name))[first:last]
    config = copy.copy(decoder.config)
    # Read through ``__dict__``: some configs answer to names that they do not hold.
    kinds = vars(config).get("layer_types")
    config.num_hidden_layers = len(layers)
    if kinds is not None:
        config.layer_types = list(kinds)[first:last]
    part = copy.copy(decoder)
    # ``copy.copy`` of a module shares its table of modules.
    part.__dict__["_modules"] = dict(decoder._modules)
    part.config = config
    setattr(part, name, nn.ModuleList(layers))
    for norm in norms:
        setattr(part, norm, nn.Identity())
    return part  # type: ignore[no-any-return]


@contextmanager
def entering(decoder: Any, states: Tensor) -> Iterator[None]:
    """Let the first layer of a decoder read ``states``, whatever the decoder makes of the token ids meanwhile.

    To give them as ``inputs_embeds`` would not do: decoders scale embeddings, or add positions to them. They enter by a hook,
    which is removed at the end.

    Args:
        decoder: of :func:`cut_decoder`.
        states: ``[batch, tokens, width]``.
    """

    def enter(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((states, *args[1:]), given) if args else (args, given | {"hidden_states": states})

    with layers_of(decoder)[0].register_forward_pre_hook(enter, with_kwargs=True):
        yield


@contextmanager
def layer_outputs(
    decoder: Any, numbers: Sequence[int], keep: Callable[[Tensor], Tensor] = torch.clone
) -> Iterator[dict[int, Tensor]]:
    """A table that passes fill meanwhile with the states after some of a decoder's layers, by number from 1.

    They are tapped by hooks, which are removed at the end.

    Args:
        decoder: with at least so many layers.
        numbers: of the layers.
        keep: makes what is kept of a layer's states ``[batch, tokens, width]``, into which a later layer may add in place.
    """
    found: dict[int, Tensor] = {}

    def tap(number: int) -> Any:
        def read(_: Any, __: Any, output: Any) -> None:
            found[number] = keep(output[0] if isinstance(output, tuple) else output)

        return read

    layers = layers_of(decoder)
    with ExitStack() as taps:
        for number in set(numbers):
            taps.enter_context(layers[number - 1].register_forward_hook(tap(number)))
        yield found


def _layers_name(decoder: Any) -> str:
    for name in _LAYERS:
        if isinstance(getattr(decoder, name, None), nn.ModuleList):
            return name
    raise _unknown(decoder, "its layers")


def _unknown(decoder: Any, what: str) -> InputError:
    return InputError(
        f"{type(decoder).__name__} does not show {what}, so that no state between layers can be read",
        where="model",
        hint="Use tune.readout=words, or another model.",
    )


def unit_rms(states: Tensor, epsilon: float) -> Tensor:
    """States divided by their root mean square, in fp32: what a final norm of unit weight makes of them.

    Args:
        states: ``[..., width]``.
        epsilon: added to the mean square.
    """
    wide = states.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)


def pooled(states: Tensor, last: Tensor, own: Sequence[NDArray[np.int64]]) -> Tensor:
    """The state at each row's last token beside the mean of the row's own tokens' states, ``[rows, 2 x width]``.

    Args:
        states: ``[tokens, width]``, of :func:`unit_rms`.
        last: ``[rows]`` place of each row's last token.
        own: per row the places of the tokens whose mean is taken, at least one.
    """
    counts = torch.tensor([len(places) for places in own], device=states.device)
    rows = torch.arange(len(own), device=states.device).repeat_interleave(counts)
    flat = torch.from_numpy(np.concatenate(own)).to(states.device)
    sums = states.new_zeros(len(own), states.shape[1]).index_add(0, rows, states.index_select(0, flat))
    return torch.cat([states.index_select(0, last), sums / counts[:, None]], dim=1)


def norm_epsilon(model: Any) -> float:
    """What a model's norms add to the mean square."""
    config = model.config.get_text_config()
    return float(getattr(config, "rms_norm_eps", None) or getattr(config, "layer_norm_eps", None) or _EPSILON)


def read_layers(output: Any, layers: Sequence[int | None]) -> Tensor:
    """A decoder's states after so many layers each, ``[layers, rows, tokens, width]``; None: after all and the final norm."""
    return torch.stack([output.last_hidden_state if n is None else output.hidden_states[n] for n in layers])
