"""An open-weights model on this machine: scores labels, embeds text, and carries adapters."""

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
from cotune.model.engine.hidden_states import layer_states, mean_states
from cotune.model.engine.label_scoring import score_labels
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.allocator import settle_memory
from cotune.model.loading.load import load_folder, remember
from cotune.model.structured.grammar import Grammar
from cotune.prompt.prompt import Prompt


class LocalModel(Engine):
    """A transformers causal language model with the shared-prefix engine around it.

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

        ``light`` says that nothing will be trained, so that transformers need not be imported where its model is not needed;
        the other arguments are those of the class.

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
            prompt: how to ask.
            rows: input fields of each row.
            labels: the answers to choose from.
            adapter: which weights; :data:`BASE` or a registered adapter's id.
            top: None gives the whole distribution; a number gives exact scores of that many best labels and may leave the
                others out, which is faster where labels have several tokens.
            batch_rows: rows in a batch at most; None leaves it to the tokens. Only a measurement of noise needs it.
            fresh: run the model even where the scores are known, and keep nothing: to see whether it says the same again.
            progress: told the tokens of each finished batch.

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
        """Run what all rows of a prompt begin with, and keep its state for good: requests of a few rows need not run it again.

        Without it a request's prefix is what its own rows have in common, of a single row nearly all, and only the last few
        prefixes are kept.

        Args:
            prompt: how will be asked.
            fields: names of a row's input fields.
            labels: the answers to choose from; none where answers are written.
            adapter: which weights.

        Returns:
            Its length in tokens.
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
        """Write an answer to each row.

        Args:
            prompt: how to ask.
            rows: input fields of each row.
            adapter: which weights; :data:`BASE` or a registered adapter's id.
            limit: tokens that an answer may have, the stop token included.
            grammar: what answers are held to. Then every answer belongs to it, also where the limit ends it.
            sampling: greedy, or a temperature and a seed.
            progress: told the tokens of each finished part.
            references: the right answer of each row, whose likelihood is read in the same passes.

        Raises:
            InputError: prompt and limit are longer than the model's positions, the grammar allows no answer in ``limit``
                tokens or cannot be used with this tokenizer, or the shared-prefix engine does not fit and there are
                ``references``.
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
        """Negative log-likelihood of each row's reference, its stop token included: how a prompt is judged before it writes.

        Args:
            prompt: how to ask.
            rows: input fields of each row.
            answers: the right answer of each row.
            adapter: which weights.
            progress: told the tokens of each finished batch.

        Raises:
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
        """Hidden state at the last token of each id sequence, ``[rows, width]``; what they share runs once.

        Args:
            sequences: token ids, at least one each.
            adapter: which weights.
            layer: output of this many layers; None means all of them and the final norm.
            progress: told the tokens that run: first what all share, then each batch's own.
        """
        weights = [(0.0,) * (len(ids) - 1) + (1.0,) for ids in sequences]
        return self.mean_states(sequences, weights, adapter=adapter, layer=layer, progress=progress)

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

        With ``starts`` the mean of the states from there to the end stands beside it, ``[layers, rows, 2 x width]``.

        States are divided by their root mean square, so that a model cut at a layer with a final norm of unit weight gives the
        same. One pass serves all layers and ends after the highest; what the sequences share runs once.

        Args:
            sequences: token ids, at least one each.
            layers: each from 1 to :attr:`depth`.
            starts: place of each sequence's first token that is its own, see :class:`cotune.prompt.render.RenderedRow`; None
                reads the last token alone.
            adapter: which weights.
            progress: told the tokens that run.
        """
        return layer_states(self, sequences, layers, starts=starts, adapter=adapter, progress=progress)

    def mean_states(
        self,
        sequences: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]],
        *,
        adapter: str = BASE,
        layer: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Weighted sum of the hidden states of each id sequence, ``[rows, width]``; arguments as in :meth:`last_states`.

        What the sequences share runs once, as far as no token in it has a weight.

        Args:
            sequences: token ids, at least one each.
            weights: of each token, as many as it has.
            adapter: which weights.
            layer: output of this many layers; None means all of them and the final norm.
            progress: told the tokens that run.
        """
        states: NDArray[np.float32] = mean_states(self, sequences, weights, (layer,), adapter=adapter, progress=progress)[0]
        return states


def _as_both(model: LocalModel) -> tuple[Model, ModelBackend]:
    """Checked by mypy: it is all that the protocols ask for."""
    return model, model
