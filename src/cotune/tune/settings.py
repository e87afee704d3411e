"""Settings of training an adapter, and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cotune.model.adapters.files import LoraSettings

Method = Literal["lora"]


@dataclass(frozen=True)
class StepSettings:
    """Settings of optimizer steps.

    Attributes:
        lora: shape of the LoRA adapter.
        learning_rate: peak learning rate of AdamW for the adapter.
        batch_size: rows per optimizer step.
        clip: largest norm of the gradient.
        micro_tokens: tokens per pass, including the prefix; larger batches are accumulated, with at least one row per pass.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)
    learning_rate: float = 1e-3
    batch_size: int = 8
    clip: float = 1.0
    micro_tokens: int = 8192


@dataclass(frozen=True)
class TuneSettings(StepSettings):
    """Settings of tuning all layers, shared by all such runs of a task.

    Attributes:
        method: name of the tuner in :data:`cotune.tune.tuners.TUNERS`.
        warmup: steps over which the learning rate rises from zero.
        decay: share of a finished run over which it falls to zero again.
        shared_prefix: run the prompt's common prefix once per batch; False trains on plain padded batches.
    """

    method: Method = "lora"
    warmup: int = 4
    decay: float = 0.3
    shared_prefix: bool = True


@dataclass(frozen=True)
class WindowSettings(StepSettings):
    """Settings of tuning a window of layers, which sets ``lora.layers``.

    Attributes:
        head_rate: peak learning rate for the head, whose inputs are standardised.
        warmup: share of the steps over which the rates rise linearly from zero; they fall linearly to zero over the rest.
        contrast_warmup: with the contrastive term the rates rise over at least this number of steps, but at most over half of
            all. As long as rows with the same label are no closer than others, the term falls fastest if the states of all rows
            become alike. Full steps at the start lead there, and a short run has no time to part the states again.
        smoothing: label smoothing, the probability that is spread over all labels.
        contrast: share of the contrastive term in the loss, from 0 to 1.
        contrast_temperature: divisor of the cosines in that term.
        pairs: whether the rows of a step come in pairs of the same label, so that each row has a partner in that term.
    """

    batch_size: int = 16
    micro_tokens: int = 4096
    head_rate: float = 1e-3
    warmup: float = 0.1
    contrast_warmup: int = 12
    smoothing: float = 0.0
    contrast: float = 0.0
    contrast_temperature: float = 0.1
    pairs: bool = False

    def rise(self, steps: int) -> float:
        """The number of steps, out of ``steps``, over which the rates rise; at least one."""
        least = min(self.contrast_warmup, steps / 2) if self.contrast else 1.0
        return max(1.0, self.warmup * steps, least)


def learning_rate_factor(step: int, *, warmup: int, decay_from: int | None = None, end: int | None = None) -> float:
    """Share of the peak learning rate in step ``step`` (from 0): warm-up, constant, linear decay.

    Without a known end the rate stays constant, so a run is an exact beginning of every longer run (the warm-up-stable-decay
    schedule, arXiv 2404.06395). A run is finished by a decay from its present step.

    Args:
        warmup: steps of warm-up.
        decay_from: first step of the decay; None while the end is not known.
        end: total number of steps, above ``decay_from``.
    """
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay_from is not None and end is not None and step >= decay_from:
        factor *= (end - step) / (end - decay_from + 1)
    return factor
