"""The tuning methods. The only one is LoRA."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from cotune.errors import InputError
from cotune.model.adapters.slots import BASE, linear_names
from cotune.model.local import LocalModel
from cotune.tune.settings import Method, TuneSettings
from cotune.tune.trainable import LoraWeights, Trainable


def check_dtype(dtype: str) -> None:
    """Check that a model whose base weights have a number type can be tuned.

    Raises:
        InputError: the type is float16. Gradients below 6e-8 become 0 in it, and the loss is not scaled.
    """
    if dtype == "float16":
        raise InputError(
            "float16 is too narrow for tuning: small gradients become 0",
            where="engine.dtype",
            hint="Use bfloat16, float32 or auto. Finished bundles can be read in float16.",
        )


class Tuner(ABC):
    """A tuning method. Add new ones to :data:`TUNERS`."""

    @abstractmethod
    def check(self, model: LocalModel, settings: TuneSettings) -> None:
        """Check that a model supports the method, before prompts are raced.

        Raises:
            InputError: it does not.
        """

    @abstractmethod
    def trainable(self, model: LocalModel, settings: TuneSettings, *, seed: int, start: str = BASE) -> Trainable:
        """Create the parameters to train, new ones from ``seed`` or those of the adapter ``start``."""


class LoraTuner(Tuner):
    """LoRA weights in linear layers (arXiv 2106.09685)."""

    def check(self, model: LocalModel, settings: TuneSettings) -> None:
        check_dtype(model.settings.dtype)
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
