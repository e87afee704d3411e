"""The tuning methods. The only one is LoRA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from cotune.errors import InputError
from cotune.model.adapters.slots import BASE, linear_names
from cotune.model.local import LocalModel
from cotune.tune.settings import Method, TuneSettings
from cotune.tune.trainable import LoraWeights, Trainable


class Tuner(ABC):
    """A tuning method. Add new ones to :data:`TUNERS`."""

    @abstractmethod
    def check(self, model: LocalModel, settings: TuneSettings) -> None:
        """Check that a model supports the method, before prompts are raced.

        Args:
            model: model to be tuned.
            settings: tuning settings.

        Raises:
            InputError: if it does not.
        """

    @abstractmethod
    def trainable(self, model: LocalModel, settings: TuneSettings, *, seed: int, start: str = BASE) -> Trainable:
        """Create the parameters to train.

        Args:
            model: model to train.
            settings: tuning settings.
            seed: seed of new parameters.
            start: adapter to start from.
        """


class LoraTuner(Tuner):
    """LoRA weights in linear layers (arXiv 2106.09685)."""

    def check(self, model: LocalModel, settings: TuneSettings) -> None:
        target, layers = settings.lora.target, linear_names(model.model)
        if target == "all-linear":
            if len(layers) < 2:
                # The output head alone.
                raise InputError(
                    f"{type(model.model).__name__} has no linear layers that can be tuned",
                    where="model",
                    hint="Use another model.",
                )
            return
        for wanted in target.split(","):
            if not any(f".{name}".endswith(f".{wanted}") for name in layers):
                names = sorted({name.rpartition(".")[2] for name in layers})
                raise InputError(
                    f"the model has no linear layer {wanted!r}",
                    where="tune.target",
                    hint=f"Use all-linear or some of {', '.join(names)}, with commas between them.",
                )

    def trainable(self, model: LocalModel, settings: TuneSettings, *, seed: int, start: str = BASE) -> LoraWeights:
        return LoraWeights(model, settings.lora, seed=seed, start=start)


TUNERS: Mapping[Method, Tuner] = {"lora": LoraTuner()}
