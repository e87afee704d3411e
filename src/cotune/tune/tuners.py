"""The ways of tuning that there are: LoRA weights in the model, or a prefix before the prompt."""

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
    """A way of tuning. Add one to :data:`TUNERS`."""

    @abstractmethod
    def check(self, model: LocalModel, settings: TuneSettings, *, written: bool) -> None:
        """Refuse a model that cannot be tuned so, before anything is raced.

        Args:
            model: that would be tuned.
            settings: how.
            written: whether answers are written token by token.

        Raises:
            InputError: it cannot.
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
        """The parameters that are trained on some rows.

        Args:
            model: carries them.
            settings: their shape.
            rows: that are learnt from.
            seed: draws fresh ones.
            start: adapter to go on from.
            opening: token ids that the prompt begins with whatever the row; None takes what these rows begin with.
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
                known = sorted({name.rpartition(".")[2] for name in layers})
                raise InputError(
                    f"the model has no linear layer {wanted!r}",
                    where="tune.target",
                    hint=f"Use all-linear or some of {', '.join(known)}, with commas between them.",
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
    """Keys and values before the prompt, or in the place of its first tokens."""

    def check(self, model: LocalModel, settings: TuneSettings, *, written: bool) -> None:
        if written and not model.shared:
            raise InputError(
                "this model runs on plain batches, which write no answers behind a trained prefix",
                where="tune.method",
                hint="Use tune.method=lora for free answers, or another model.",
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
