"""Keys and values of a prefix, and reading states off a decoder's output: what every kind of pass shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cotune.model.engine.attention import ATTENTION_NAME, PLAIN_ATTENTION, KeyValue


@dataclass(frozen=True)
class PrefixState:
    """Keys and values of a prompt prefix by layer, computed once at batch 1; ``length`` in tokens."""

    length: int
    layers: dict[int, KeyValue]


def use_plain_attention(model: Any) -> None:
    """Give the model back the attention that it was loaded with, after packed passes."""
    if model.config.get_text_config()._attn_implementation == ATTENTION_NAME:
        model.set_attn_implementation(getattr(model, PLAIN_ATTENTION, "sdpa"))


def read_layers(output: Any, layers: Sequence[int | None]) -> torch.Tensor:
    """A decoder's states after so many layers each, ``[layers, rows, tokens, width]``; None: after all and the final norm."""
    return torch.stack([output.last_hidden_state if n is None else output.hidden_states[n] for n in layers])
