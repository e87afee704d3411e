"""Settings of training an adapter, and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cotune.model.adapters.files import LoraSettings

Method = Literal["lora"]


@dataclass(frozen=True)
class TuneSettings:
    """Settings shared by all tuning runs of a task.

    Attributes:
        method: name of the tuner in :data:`cotune.tune.tuners.TUNERS`.
        lora: shape of the LoRA adapter.
        learning_rate: peak learning rate of AdamW.
        batch_size: rows per optimizer step.
        warmup: steps over which the learning rate rises from zero.
        decay: share of a finished run over which it falls to zero again.
        weight_decay: weight decay of AdamW, on the adapter only.
        clip: largest norm of the gradient.
        shared_prefix: run the prompt's common prefix once per batch; False trains on plain padded batches.
        micro_tokens: tokens per pass, including the prefix; larger batches are accumulated, with at least one row per pass.
    """

    method: Method = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    learning_rate: float = 1e-3
    batch_size: int = 8
    warmup: int = 4
    decay: float = 0.3
    weight_decay: float = 0.0
    clip: float = 1.0
    shared_prefix: bool = True
    micro_tokens: int = 8192


def learning_rate_factor(step: int, *, warmup: int, decay_from: int | None = None, end: int | None = None) -> float:
    """Share of the peak learning rate in step ``step`` (from 0): warm-up, constant, linear decay.

    Without a known end the rate stays constant, so a run is an exact beginning of every longer run (the warm-up-stable-decay
    schedule, arXiv 2404.06395). A run is finished by a decay from its present step.

    Args:
        step: the optimizer step.
        warmup: steps of warm-up.
        decay_from: first step of the decay; None while the end is not known.
        end: total number of steps, above ``decay_from``.
    """
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay_from is not None and end is not None and step >= decay_from:
        factor *= (end - step) / (end - decay_from + 1)
    return factor
