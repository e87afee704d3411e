"""The parameters that a tuning run trains: LoRA weights in the model, or the keys and values of a prefix before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from cotune.errors import InputError
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.prefix import TrainedPrefix
from cotune.model.adapters.slots import BASE
from cotune.model.engine.prefix_cache import PrefixState
from cotune.model.local import LocalModel
from cotune.tune.settings import PrefixSettings

Named = list[tuple[str, Parameter]]

RANDOM_TOKENS = 16
"""Default number of tokens of a random prefix."""


class Trainable(Protocol):
    """Parameters of one kind of adapter; active in the model from :meth:`enter` on, until another adapter is activated."""

    @property
    def identity(self) -> dict[str, Any]:
        """The values that identify it, in addition to the run's settings."""
        ...

    @property
    def stands_for(self) -> int:
        """Number of a prompt's first tokens that it replaces and that need not run."""
        ...

    def enter(self) -> Named:
        """The initial parameters by name."""
        ...

    def pace(self, name: str) -> float:
        """Factor on the learning rate of a parameter."""
        ...

    def prefix(self) -> TrainedPrefix | None:
        """The present prefix, with gradient; None if there is none."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained parameters."""
        ...

    def save(self, parent: Path) -> str:
        """Write a PEFT folder, named by its content, under ``parent``; returns the adapter's id."""
        ...


class LoraWeights:
    """LoRA weights in the model's linear layers.

    Args:
        model: model to train.
        settings: shape of the weights.
        seed: seed of new weights.
        start: adapter to start from; :data:`BASE` draws new weights.
    """

    def __init__(self, model: LocalModel, settings: LoraSettings, *, seed: int, start: str = BASE) -> None:
        self._slot, self._settings, self._seed, self._start = model.adapters, settings, seed, start
        self.stands_for = 0
        self.identity: dict[str, Any] = {}

    def enter(self) -> Named:
        return self._slot.start(self._settings, seed=self._seed, adapter_id=self._start)

    def pace(self, name: str) -> float:
        return 1.0

    def prefix(self) -> TrainedPrefix | None:
        return None

    def weights(self) -> dict[str, Tensor]:
        return self._slot.weights()

    def save(self, parent: Path) -> str:
        return self._slot.save(self._slot.weights(), parent)


class PrefixWeights:
    """Keys and values of a prefix, one parameter each per layer; the model itself stays unchanged.

    With ``init="text"`` they start as the keys and values of the prompt's first tokens, and replace these tokens: before the
    first step all scores are unchanged. If started from another prefix, the tokens that both prompts begin with keep their
    trained values, and the rest starts from the text. With ``init="random"`` they are those of random words and come before the
    whole prompt; so do those of a prompt that begins with the row itself, which has no text to start from.

    The learning rate of a layer's keys or values is proportional to their size, which differs up to fortyfold between layers.

    Args:
        model: model of the prefix.
        settings: its length and initialisation.
        ids: token ids that the prompt begins with for every row.
        seed: seed of random words.
        start: adapter to start from, which also says whether the prefix replaces text; :data:`BASE` initialises a new one.
        longest: tokens of the longest row, including its answer.

    Raises:
        InputError: ``start`` is not a prefix, the model's layers have keys and values of different shapes or none, or there is
            no room for the prefix.
    """

    def __init__(
        self,
        model: LocalModel,
        settings: PrefixSettings,
        ids: Sequence[int],
        *,
        seed: int,
        start: str = BASE,
        longest: int = 0,
    ) -> None:
        self._model, self._start, self._seed = model, start, seed
        self._tokens, self._longest = settings.tokens, longest
        parent = model.adapters.trained_prefix(start)
        if parent is None and start != BASE:
            raise InputError("a prefix cannot start from LoRA weights", where="tune.method", hint="Use tune.method=lora.")
        from_text = settings.init == "text" if parent is None else bool(parent.ids)
        self.ids = tuple(ids[: settings.tokens]) if from_text else ()
        self.stands_for = len(self.ids)
        self.identity = {"stands_for": self.ids}
        self._parameters: dict[str, Parameter] = {}
        self._pace: dict[str, float] = {}
        self._layers = 0

    def enter(self) -> Named:
        with torch.no_grad():
            first = TrainedPrefix.of_state(self._first_state(), self.ids)
        self._model.adapters.bare()
        self._layers = first.keys.shape[0]
        self._parameters = {
            f"{part}.{layer}": Parameter(tensor.clone())
            for part, stack in (("keys", first.keys), ("values", first.values))
            for layer, tensor in enumerate(stack)
        }
        # The first token of a text has extreme keys (an attention sink), which would dominate the scale.
        self._pace = {
            name: float((p[1:] if len(p) > 1 else p).detach().pow(2).mean().sqrt()) for name, p in self._parameters.items()
        }
        return list(self._parameters.items())

    def pace(self, name: str) -> float:
        return self._pace[name]

    def prefix(self) -> TrainedPrefix:
        keys, values = (
            torch.stack([self._parameters[f"{part}.{layer}"] for layer in range(self._layers)]) for part in ("keys", "values")
        )
        return TrainedPrefix(keys, values, self.ids)

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self._parameters.items()}

    def save(self, parent: Path) -> str:
        now = self.prefix()
        return self._model.adapters.save_prefix(replace(now, keys=now.keys.detach(), values=now.values.detach()), parent)

    def _first_state(self) -> PrefixState:
        model, ids = self._model, self.ids
        if not ids and self._start == BASE:
            ids = self._random_words()
        state = model.run_prefix(self._start, ids)
        assert state is not None
        return state

    def _random_words(self) -> tuple[int, ...]:
        model, count = self._model, self._tokens or RANDOM_TOKENS
        most = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and count + self._longest > most:
            raise InputError(
                f"a prefix of {count} tokens and rows of {self._longest} do not fit into the model's {most}",
                where="tune.prefix.tokens",
                hint="Lower it, or engine.max_tokens.",
            )
        special = set(model.tokenizer.all_special_ids)
        words = torch.tensor([i for i in range(len(model.tokenizer)) if i not in special])
        generator = torch.Generator().manual_seed(self._seed)
        return tuple(words[torch.randint(len(words), (count,), generator=generator)].tolist())


RANDOM_TOKENS = 16
"""Tokens of a prefix that is drawn at random, where their number is not set."""
