"""The tuning methods: LoRA weights in the model, or a prefix before the prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from cotune.errors import InputError
from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.prompt.render import common_start
from cotune.tune.batches import TrainingRow
from cotune.tune.loss import common_prefix
from cotune.tune.settings import Method, TuneSettings
from cotune.tune.trainable import LoraWeights, PrefixWeights, Trainable


class Tuner(ABC):
    """A tuning method. Add new ones to :data:`TUNERS`."""

    @abstractmethod
    def check(self, model: LocalModel, settings: TuneSettings, *, written: bool) -> None:
        """Check that a model supports the method, before prompts are raced.

        Args:
            model: model to be tuned.
            settings: tuning settings.
            written: whether answers are generated.

        Raises:
            InputError: if it does not.
        """

    @abstractmethod
    def trainable(
        self,
        model: LocalModel,
        settings: TuneSettings,
        rows: Sequence[TrainingRow],
        *,
        seed: int,
        start: str = BASE,
        opening: Sequence[int] | None = None,
    ) -> Trainable:
        """Create the parameters to train on some rows.

        Args:
            model: model to train.
            settings: tuning settings.
            rows: training rows.
            seed: seed of new parameters.
            start: adapter to start from.
            opening: token ids that the prompt begins with for every row; None takes the common beginning of ``rows``.
        """


class LoraTuner(Tuner):
    """LoRA weights in linear layers (arXiv 2106.09685)."""

    def check(self, model: LocalModel, settings: TuneSettings, *, written: bool) -> None:
        target = settings.lora.target
        if target == "all-linear":
            return
        layers = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
        for wanted in target.split(","):
            if not any(f".{name}".endswith(f".{wanted}") for name in layers):
                names = sorted({name.rpartition(".")[2] for name in layers})
                raise InputError(
                    f"the model has no linear layer {wanted!r}",
                    where="tune.target",
                    hint=f"Use all-linear or some of {', '.join(names)}, with commas between them.",
                )

    def trainable(
        self,
        model: LocalModel,
        settings: TuneSettings,
        rows: Sequence[TrainingRow],
        *,
        seed: int,
        start: str = BASE,
        opening: Sequence[int] | None = None,
    ) -> LoraWeights:
        return LoraWeights(model, settings.lora, seed=seed, start=start)


class PrefixTuner(Tuner):
    """Keys and values before the prompt, or in place of its first tokens."""

    def check(self, model: LocalModel, settings: TuneSettings, *, written: bool) -> None:
        if written and not model.shared:
            raise InputError(
                "this model runs on plain batches, which do not support generation with a trained prefix",
                where="tune.method",
                hint="Use tune.method=lora for generated answers, or another model.",
            )
        with torch.inference_mode():
            state = model.run_prefix(BASE, [model.renderer.stop_id])
        assert state is not None
        TrainedPrefix.of_state(state)

    def trainable(
        self,
        model: LocalModel,
        settings: TuneSettings,
        rows: Sequence[TrainingRow],
        *,
        seed: int,
        start: str = BASE,
        opening: Sequence[int] | None = None,
    ) -> PrefixWeights:
        shared = rows[0].prompt_ids[: common_prefix(rows)]
        ids = shared if opening is None else common_start([shared, opening])
        longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
        return PrefixWeights(model, settings.prefix, ids, seed=seed, start=start, longest=longest)


TUNERS: Mapping[Method, Tuner] = {"lora": LoraTuner(), "prefix": PrefixTuner()}
