"""Decoders that run some of a model's layers: up to a probe's layer (early exit), or a window of layers.

A hidden state after ``depth`` layers needs none of the layers above, and tuning a window of layers needs none below it once the
states at its lower edge are known. They share all modules with the model, so adapters and prepacked weights apply to them too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cotune.errors import CotuneError, InputError

_LAYERS = ("layers", "h", "blocks")
"""Attribute names of a decoder's list of layers."""
_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "final_norm")
"""Attribute names of the norm behind the last layer."""
_EPSILON = 1e-6
"""Epsilon of models whose config has none."""


def depth_of(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def layers_of(decoder: Any) -> nn.ModuleList:
    """The layers of a decoder, in order.

    Raises:
        InputError: the decoder has no list of layers under a known name.
    """
    return getattr(decoder, _layers_name(decoder))  # type: ignore[no-any-return]


def cut_decoder(decoder: Any, first: int, last: int) -> nn.Module:
    """A decoder that runs layers ``first`` to ``last`` (exclusive) of another, without the final norm.

    With ``first`` above 0 its first layer needs states as input, see :func:`entering`. Call it again after the model's
    attention implementation has changed, since the copy has its own config.

    Args:
        decoder: a transformers decoder with a ``ModuleList`` of layers and a final norm; it is not changed.
        first: number of layers to leave out at the bottom.
        last: number of layers after which the result ends.

    Raises:
        InputError: if the decoder's layers or final norm cannot be found.
    """
    name, norms = _layers_name(decoder), _norm_names(decoder)
    if not norms:
        raise _unknown(decoder, "final norm")
    layers = list(getattr(decoder, name))[first:last]
    config = copy.copy(decoder.config)
    # Use ``__dict__``, since some configs return values for attributes that they do not have.
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


def cuts_fit(model: Any) -> bool:
    """Whether cut decoders give the states of a full pass, which is tried on three tokens with the present attention.

    They do not if the architecture is unknown, computes inputs of all layers at once, or reuses keys of lower layers.
    """
    decoder, depth = model.get_decoder(), depth_of(model)
    ids = torch.arange(3, device=model.device)[None]
    try:
        with torch.inference_mode():
            with layer_outputs(decoder, range(1, depth + 1)) as wanted:
                decoder(input_ids=ids, use_cache=False)
            for first, last in {(0, 1), (0, depth), (depth // 2, depth)}:
                part = cut_decoder(decoder, first, last)
                with entering(part, wanted[first].clone()) if first else nullcontext():
                    found = part(input_ids=ids, use_cache=False).last_hidden_state
                # The same products, so they differ by less than what an input of another layer changes.
                if not torch.allclose(found.float(), wanted[last].float(), rtol=0.01, atol=0.01 * float(wanted[last].std())):
                    return False
    except (CotuneError, RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        return False
    return True


@contextmanager
def entering(decoder: Any, states: Tensor) -> Iterator[None]:
    """Replace the input of a decoder's first layer by ``states`` until the block ends.

    ``inputs_embeds`` would not do, since decoders scale embeddings or add positions to them. A hook replaces the input
    ``[batch, tokens, width]`` and is removed at the end.
    """

    def enter(_: Any, args: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((states, *args[1:]), arguments) if args else (args, arguments | {"hidden_states": states})

    with layers_of(decoder)[0].register_forward_pre_hook(enter, with_kwargs=True):
        yield


@contextmanager
def layer_outputs(
    decoder: Any, numbers: Sequence[int], keep: Callable[[Tensor], Tensor] = torch.clone
) -> Iterator[dict[int, Tensor]]:
    """Collect the states after some of a decoder's layers, by layer number from 1, until the block ends.

    Hooks collect what ``keep`` returns for a layer's states ``[batch, tokens, width]``. It must copy them, since later layers
    may change them in place.
    """
    outputs: dict[int, Tensor] = {}

    def tap(number: int) -> Any:
        def read(_: Any, __: Any, output: Any) -> None:
            outputs[number] = keep(output[0] if isinstance(output, tuple) else output)

        return read

    layers = layers_of(decoder)
    with ExitStack() as taps:
        for number in set(numbers):
            taps.enter_context(layers[number - 1].register_forward_hook(tap(number)))
        yield outputs


def through_norm(decoder: Any, rows: Tensor) -> Tensor:
    """``rows`` ``[rows, width]`` so changed that they map states before a decoder's final norm as they map those behind it.

    Up to the division of a state by its length, and to the norm's bias.
    """
    names = _norm_names(decoder)
    if not names:
        return rows
    norm = getattr(decoder, names[0])
    weight = next(norm.parameters(), rows)
    # A state of mean 0 and mean square 1, which a norm only scales.
    state = torch.ones(1, rows.shape[1], dtype=weight.dtype, device=rows.device)
    state[:, 1::2] = -1
    normed = norm(state)
    scaled: Tensor = rows * ((normed - norm(-state)) / 2 * state).float()
    centring = torch.allclose(norm(state + 1), normed, rtol=0.01)
    return scaled - scaled.mean(dim=1, keepdim=True) if centring else scaled


def _norm_names(decoder: Any) -> list[str]:
    return [norm for norm in _NORMS if isinstance(decoder._modules.get(norm), nn.Module)]


def _layers_name(decoder: Any) -> str:
    for name in _LAYERS:
        if isinstance(getattr(decoder, name, None), nn.ModuleList):
            return name
    raise _unknown(decoder, "list of layers")


def _unknown(decoder: Any, what: str) -> InputError:
    return InputError(
        f"{type(decoder).__name__} has no {what} that cotune knows, so states between layers cannot be read",
        where="model",
        hint="Use tune.readout=words, or another model.",
    )


def unit_rms(states: Tensor, epsilon: float) -> Tensor:
    """States ``[..., width]`` divided by their root mean square, in fp32, as by a final norm of unit weight."""
    wide = states.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)


def pooled(states: Tensor, last: Tensor, own: Sequence[NDArray[np.int64]]) -> Tensor:
    """The state at each row's last token and the mean of its own tokens' states, concatenated: ``[rows, 2 x width]``.

    Args:
        states: ``[tokens, width]``, of :func:`unit_rms`.
        last: ``[rows]`` position of each row's last token.
        own: positions of each row's tokens whose mean is taken, at least one.
    """
    return torch.cat([states.index_select(0, last), means(states, own)], dim=1)


def means(states: Tensor, own: Sequence[NDArray[np.int64]]) -> Tensor:
    """``[parts, width]`` means of ``states`` ``[tokens, width]`` at each part's positions, at least one."""
    counts = torch.tensor([len(places) for places in own], device=states.device)
    parts = torch.arange(len(own), device=states.device).repeat_interleave(counts)
    flat = torch.from_numpy(np.concatenate(own)).to(states.device)
    sums = states.new_zeros(len(own), states.shape[1]).index_add(0, parts, states.index_select(0, flat))
    return sums / counts[:, None]


def norm_epsilon(model: Any) -> float:
    config = model.config.get_text_config()
    return float(getattr(config, "rms_norm_eps", None) or getattr(config, "layer_norm_eps", None) or _EPSILON)


def read_layers(output: Any, layers: Sequence[int | None]) -> Tensor:
    """States after each number of layers, ``[layers, rows, tokens, width]``; None for after all layers and the final norm."""
    return torch.stack([output.last_hidden_state if n is None else output.hidden_states[n] for n in layers])
