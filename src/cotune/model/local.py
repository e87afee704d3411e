"""A local open-weights model: scores labels, generates, returns hidden states, and uses adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.model.adapters.slots import BASE
from cotune.model.base import Progress
from cotune.model.engine import answer_losses as losses
from cotune.model.engine import generation, hidden_states, label_scoring
from cotune.model.engine.engine import Engine
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.allocator import settle_memory
from cotune.model.loading.load import load_folder, remember


class LocalModel(Engine):
    """A transformers causal language model with the shared-prefix engine.

    Arguments and attributes are those of :class:`cotune.model.engine.engine.Engine`.
    """

    score = label_scoring.score_labels
    generate = generation.generate
    answer_losses = losses.answer_losses
    layer_states = hidden_states.layer_states

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        settings: EngineSettings | None = None,
        cache: ScoreCache | None = None,
        name: str = "",
        light: bool = False,
    ) -> LocalModel:
        """Load a checked model folder (see :func:`cotune.model.resolve_model`).

        ``light`` says that nothing will be trained, so that transformers is not imported if the minimal model suffices; the
        other arguments are those of the class.

        Raises:
            InputError: the files cannot be loaded.
        """
        settings = settings or EngineSettings()
        settle_memory()
        loaded = load_folder(folder, settings, light=light)
        found = cls(
            loaded.model,
            loaded.tokenizer,
            fingerprint=loaded.fingerprint,
            settings=settings,
            cache=cache,
            name=name or str(folder),
            shared=loaded.known.shared if loaded.known is not None else None,
        )
        if loaded.known is None:
            remember(loaded, folder, settings, shared=found.shared)
        return found

    def last_states(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        adapter: str = BASE,
        layer: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Hidden state at the last token of each id sequence, ``[rows, width]``; a common beginning runs once.

        Args:
            sequences: token ids, at least one each.
            layer: output of this many layers; None means all of them and the final norm.
            progress: called with the number of tokens of the shared prefix, then of each batch.
        """
        states: NDArray[np.float32] = hidden_states.last_states(self, sequences, (layer,), adapter=adapter, progress=progress)[
            0
        ]
        return states
