"""How an adapter is trained, and the learning rate by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cotune.model.adapters.files import LoraSettings

Method = Literal["lora", "prefix"]
Init = Literal["text", "random"]


@dataclass(frozen=True)
class PrefixSettings:
    """What a trained prefix starts from.

    Attributes:
        init: ``text``, the prompt's own first tokens, or ``random`` words.
        tokens: how many, of a text at most; None takes all that the prompt begins with, or a fixed number at random.
    """

    init: Init = "text"
    tokens: int | None = None


@dataclass(frozen=True)
class TuneSettings:
    """What stays the same over all tuning runs of a task.

    Attributes:
        method: what is trained: ``lora`` weights, or the keys and values of a ``prefix``.
        lora: shape of the LoRA adapter.
        prefix: what a prefix starts from.
        learning_rate: peak learning rate of AdamW; a prefix's counts in units of each layer's own keys and values.
        batch_size: rows in an optimizer step.
        warmup: steps over which the learning rate rises from zero.
        decay: share of a finished run over which it falls to zero again.
        weight_decay: of AdamW, on the adapter alone.
        clip: largest norm of the gradient.
        shared_prefix: run the prompt's common prefix once a batch; False trains on plain padded batches.
        head: whether a classification head is fitted to a tuned winner's states, and answers where dev prefers it.
        micro_tokens: tokens of a batch that run at once, the prefix among them; larger batches are accumulated, at least a row
            in each pass.
    """

    method: Method = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    prefix: PrefixSettings = field(default_factory=PrefixSettings)
    learning_rate: float = 1e-3
    batch_size: int = 8
    warmup: int = 4
    decay: float = 0.3
    weight_decay: float = 0.0
    clip: float = 1.0
    shared_prefix: bool = True
    head: bool = True
    micro_tokens: int = 8192


def learning_rate_factor(step: int, *, warmup: int, decay_from: int | None = None, end: int | None = None) -> float:
    """Share of the peak learning rate in step ``step`` (from 0): warm-up, constant, linear decay.

    A run that is not told its end stays constant, so it is an exact prefix of every longer run (the warm-up-stable-decay
    schedule, arXiv 2404.06395); a run is finished by decaying from where it stands.

    Args:
        step: the optimizer step.
        warmup: steps of warm-up.
        decay_from: first step of the decay; None while the end is open.
        end: number of steps in all, above ``decay_from``.
    """
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay_from is not None and end is not None and step >= decay_from:
        factor *= (end - step) / (end - decay_from + 1)
    return factor
