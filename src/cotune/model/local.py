"""A local open-weights model: scores labels, generates, returns hidden states, and uses adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.model.adapters.slots import BASE
from cotune.model.base import GREEDY, AnswerLosses, Generations, LabelScores, Model, ModelBackend, Progress, Sampling
from cotune.model.engine.answer_losses import answer_losses
from cotune.model.engine.engine import Engine
from cotune.model.engine.generation import generate
from cotune.model.engine.hidden_states import last_states, layer_states
from cotune.model.engine.label_scoring import score_labels
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.allocator import settle_memory
from cotune.model.loading.load import load_folder, remember
from cotune.model.structured.grammar import Grammar
from cotune.prompt.prompt import Prompt


class LocalModel(Engine):
    """A transformers causal language model with the shared-prefix engine.

    Arguments and attributes are those of :class:`cotune.model.engine.engine.Engine`.
    """

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

    # Scoring ------------------------------------------------------------------------------------------------------

    def score(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        labels: Sequence[str],
        *,
        adapter: str = BASE,
        top: int | None = None,
        batch_rows: int | None = None,
        fresh: bool = False,
        progress: Progress | None = None,
    ) -> LabelScores:
        """Log-probabilities of the labels for each row.

        Args:
            prompt: the prompt.
            rows: input fields of each row.
            labels: all labels.
            adapter: :data:`BASE` or a registered adapter's id.
            top: None returns the whole distribution; a number returns exact scores of that many best labels and may skip
                others, which is faster for labels of several tokens.
            batch_rows: maximum number of rows per batch; only needed to measure noise.
            fresh: bypass the cache.
            progress: called with the tokens of each finished batch.

        Raises:
            DivergedError: a score is not a number or infinite.
        """
        return score_labels(
            self,
            prompt,
            rows,
            labels,
            adapter=adapter,
            top=top,
            batch_rows=batch_rows,
            fresh=fresh,
            progress=progress,
        )

    def keep_prefix(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str], *, adapter: str = BASE) -> int:
        """Run the common beginning of all rows of a prompt and keep its state permanently, for requests of a few rows.

        Otherwise a request's prefix is the common beginning of its own rows (nearly everything for a single row), and only the
        last few prefixes are kept.

        Args:
            prompt: the prompt.
            fields: names of a row's input fields.
            labels: all labels; none for generated answers.
            adapter: id of the adapter.

        Returns:
            The length of the prefix in tokens.
        """
        if not self.shared:
            return 0
        ids = self.own_prefix(prompt, fields, labels)
        self.adapters.use(adapter)
        with torch.inference_mode():
            self._prefixes.keep(adapter, ids)
        return len(ids)

    # Free answers -------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        *,
        adapter: str = BASE,
        limit: int,
        grammar: Grammar | None = None,
        sampling: Sampling = GREEDY,
        progress: Progress | None = None,
        references: Sequence[str] | None = None,
    ) -> Generations:
        """Generate an answer to each row.

        Args:
            prompt: the prompt.
            rows: input fields of each row.
            adapter: :data:`BASE` or a registered adapter's id.
            limit: maximum number of tokens of an answer, including the stop token.
            grammar: constraint on answers; every answer then belongs to it, even if the limit ends it.
            sampling: greedy, or a temperature and a seed.
            progress: called with the tokens of each finished part.
            references: reference answers whose likelihood is computed in the same passes, so that prompts run once for both.

        Raises:
            InputError: prompt and limit exceed the model's positions, the grammar allows no answer in ``limit`` tokens or does
                not support this tokenizer, or ``references`` is given without the shared-prefix engine.
            DivergedError: a logit is not a number or infinite.
        """
        return generate(
            self,
            prompt,
            rows,
            adapter=adapter,
            limit=limit,
            grammar=grammar,
            sampling=sampling,
            progress=progress,
            references=references,
        )

    def answer_losses(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        answers: Sequence[str],
        *,
        adapter: str = BASE,
        progress: Progress | None = None,
    ) -> AnswerLosses:
        """Negative log-likelihood of each row's reference answer, including its stop token.

        Args:
            prompt: the prompt.
            rows: input fields of each row.
            answers: the reference answer of each row.
            adapter: id of the adapter.
            progress: called with the tokens of each finished batch.

        Raises:
            InputError: a prompt and its answer exceed the model's positions.
            DivergedError: a loss is not a number or infinite.
        """
        return answer_losses(self, prompt, rows, answers, adapter=adapter, progress=progress)

    # States for embedding -----------------------------------------------------------------------------------------

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
            adapter: id of the adapter.
            layer: output of this many layers; None means all of them and the final norm.
            progress: called with the number of tokens of the shared prefix, then of each batch.
        """
        states: NDArray[np.float32] = last_states(self, sequences, (layer,), adapter=adapter, progress=progress)[0]
        return states

    def layer_states(
        self,
        sequences: Sequence[Sequence[int]],
        layers: Sequence[int],
        *,
        starts: Sequence[int] | None = None,
        adapter: str = BASE,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Hidden state at the last token of each id sequence after each of several layers, ``[layers, rows, width]``.

        With ``starts`` the mean of the states from there to the end is appended, ``[layers, rows, 2 x width]``.

        States are divided by their root mean square, so that a model cut at a layer with a final norm of unit weight gives the
        same. One pass serves all layers and ends after the highest; a common beginning runs once.

        Args:
            sequences: token ids, at least one each.
            layers: each from 1 to :attr:`depth`.
            starts: position of each sequence's first own token, see :class:`cotune.prompt.render.RenderedRow`; None reads only
                the last token.
            adapter: id of the adapter.
            progress: called with the number of tokens that run.
        """
        return layer_states(self, sequences, layers, starts=starts, adapter=adapter, progress=progress)


def _as_both(model: LocalModel) -> tuple[Model, ModelBackend]:
    """Checked by mypy against the protocols."""
    return model, model
