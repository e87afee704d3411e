"""The parameters that a tuning run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter

from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel

Named = list[tuple[str, Parameter]]


class Trainable(Protocol):
    """Parameters of one kind of adapter; active in the model from :meth:`enter` on, until another adapter is activated."""

    def enter(self) -> Named:
        """The initial parameters by name."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained parameters."""
        ...

    def save(self, parent: Path) -> str:
        """Write a PEFT folder, named by its content, under ``parent``; returns the adapter's id."""
        ...


class LoraWeights:
    """LoRA weights in the model's linear layers: those of the adapter ``start``, or new ones drawn by ``seed``."""

    def __init__(self, model: LocalModel, settings: LoraSettings, *, seed: int, start: str = BASE) -> None:
        self._slot, self._settings, self._seed, self._start = model.adapters, settings, seed, start

    def enter(self) -> Named:
        return self._slot.start(self._settings, seed=self._seed, adapter_id=self._start)

    def weights(self) -> dict[str, Tensor]:
        return self._slot.weights()

    def save(self, parent: Path) -> str:
        return self._slot.save(self._slot.weights(), parent)
