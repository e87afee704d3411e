"""An open-weights model on this machine: scores labels, embeds text, and carries adapters."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.model.adapters.prefix import TrainedPrefix, by_coverage
from cotune.model.adapters.slots import BASE, AdapterSlot
from cotune.model.base import GREEDY, AnswerLosses, Generations, LabelScores, Model, Progress, Sampling
from cotune.model.engine.answer_losses import answer_losses
from cotune.model.engine.fallback import plain_prefix
from cotune.model.engine.generation import generate
from cotune.model.engine.hidden_states import layer_states, mean_states
from cotune.model.engine.label_scoring import score_labels
from cotune.model.engine.prefix_cache import PrefixStates
from cotune.model.engine.runner import PackedRunner, PrefixState, fits
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.allocator import settle_memory
from cotune.model.hardware.capability import free_memory
from cotune.model.layers.fused_layers import make_lean
from cotune.model.layers.packed_weights import lay_out
from cotune.model.loading.load import load_folder, remember
from cotune.model.structured.grammar import Grammar
from cotune.model.structured.token_grammar import TokenTable
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer, shared_prefix

_log = logging.getLogger(__name__)

# Texts that begin with characters of different kinds: what prompts have in common with all of them is the prompt's own.
_UNLIKE = ("a", "Z", "7", "#", "é", "\n", " x", "的")


class LocalModel:
    """A transformers causal language model with the shared-prefix engine around it.

    Args:
        model: the loaded model, in evaluation mode.
        tokenizer: its fast tokenizer.
        fingerprint: content hash of the model's files; part of every cache key.
        settings: how to run.
        cache: where scores are kept; None keeps none.
        name: how the user named the model, for cards and messages.
        shared: whether the shared-prefix engine fits this architecture; None finds out.

    Attributes:
        shared: whether the shared-prefix engine fits this architecture; otherwise plain batches serve.
        laid_out: whether frozen weights lie in the processor's own layout.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        fingerprint: str,
        settings: EngineSettings | None = None,
        cache: ScoreCache | None = None,
        name: str = "",
        shared: bool | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.model = model
        self.name = name
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.cache = cache
        self.renderer = Renderer(tokenizer, max_tokens=self._longest_prompt())
        self.runner = PackedRunner(model)
        make_lean(model)
        free = self.settings.memory_bytes
        self.laid_out = lay_out(model, free_memory(self.settings.device) if free is None else free) > 0
        self.adapters = AdapterSlot(model)
        self._prefixes = PrefixStates(self._read_prefix)
        self.shared = fits(model, self.settings.dtype) if shared is None else shared
        if not self.shared:
            _log.warning(
                "the shared-prefix engine does not fit this architecture (%s); plain batches are used, which is slower",
                type(model).__name__,
            )

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

    def own_prefix(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> tuple[int, ...]:
        """Token ids that a prompt begins with whatever the row holds."""
        rows = [dict.fromkeys(fields, text) for text in _UNLIKE]
        renderer = self.renderer
        rendered = renderer.render(prompt, rows, labels) if labels else renderer.render_answers(prompt, rows, None)
        sequences = [row.prompt_ids for row in rendered]
        return sequences[0][: shared_prefix(sequences)]

    def run_prefix(self, adapter: str, ids: Sequence[int], depth: int | None = None) -> PrefixState | None:
        """Keys and values of a prefix under an adapter, which is put into the model; None where there is nothing.

        Of a trained prefix they are its own as far as it stands for ``ids``, and those of the text that comes after. ``depth``
        layers run, all where it is None.
        """
        self.adapters.use(adapter)
        trained = self.adapters.trained_prefix(adapter)
        covered = trained.covered(ids) if trained else 0
        start = self.trained_start(trained, covered)
        if self.shared or covered == len(ids):
            return self.runner.prefix(ids[covered:], start, depth)
        before = start.length if start else 0
        return PrefixState(before + len(ids) - covered, plain_prefix(self.model, ids[covered:], start))

    def _read_prefix(self, adapter: str, ids: Sequence[int]) -> PrefixState | None:
        probe = self.adapters.probe(adapter)
        return self.run_prefix(adapter, ids, None if probe is None else probe.layer)

    def with_max_tokens(self, max_tokens: int) -> LocalModel:
        """The same loaded model for prompts of another greatest length; weights, adapters and kept prefixes are shared."""
        other = copy.copy(self)
        other.settings = replace(self.settings, max_tokens=max_tokens)
        other.renderer = Renderer(self.tokenizer, max_tokens=other._longest_prompt())
        other.renderer.chooser = self.renderer.chooser
        return other

    def trained_start(self, trained: TrainedPrefix | None, covered: int) -> PrefixState | None:
        """What a prompt attends to when so many of its tokens are stood for, in the model's number type."""
        return trained.state(covered, self.model.get_input_embeddings().weight) if trained else None

    def by_coverage(
        self, adapter: str, sequences: Sequence[Sequence[int]], most: Sequence[int] | None = None
    ) -> list[tuple[int, list[int]]]:
        """Places of sequences by how many of their tokens a trained prefix stands for; at least one token stays with each."""
        limits = [len(ids) - 1 for ids in sequences] if most is None else most
        return by_coverage(self.adapters.trained_prefix(adapter), sequences, limits)

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
        gold: Sequence[str] | None = None,
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
            gold: the gold answer of each row, whose likelihood is read in the same passes: prompts are read once for both.

        Raises:
            InputError: prompt and limit are longer than the model's positions, the grammar allows no answer in ``limit``
                tokens or cannot be used with this tokenizer, or the shared-prefix engine that ``gold`` needs does not fit.
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
            gold=gold,
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
        """Negative log-likelihood of each row's gold answer, its stop token included: how a prompt is judged before it writes.

        Args:
            prompt: how to ask.
            rows: input fields of each row.
            answers: the gold answer of each row.
            adapter: which weights.
            progress: told the tokens of each finished batch.

        Raises:
            DivergedError: a loss is not a number or infinite.
        """
        return answer_losses(self, prompt, rows, answers, adapter=adapter, progress=progress)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the chat template's, the tokenizer's, and those that the model's maker names."""
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        several = named if isinstance(named, list) else [] if named is None else [named]
        found = {self.renderer.stop_id, self.tokenizer.eos_token_id, *several} - {None}
        return tuple(sorted(found))

    @cached_property
    def token_table(self) -> TokenTable:
        """The bytes of the tokenizer's tokens, which grammars need."""
        return TokenTable(getattr(self.tokenizer, "whole", self.tokenizer), self.model.get_output_embeddings().weight.shape[0])

    @property
    def longest_sequence(self) -> int | None:
        """Positions that the model has; None where it does not say."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    def _longest_prompt(self) -> int:
        wanted = self.settings.max_tokens
        return min(wanted, (self.longest_sequence or wanted) - 32)

    def kept_prefix(self, adapter: str, shared: tuple[int, ...], least: int = 0) -> tuple[int, ...]:
        """How much of what rows share is taken as their prefix: the longest that is kept and has ``least`` tokens, else all."""
        return self._prefixes.longest_kept(adapter, shared, least)

    def prefix_state(self, adapter: str, ids: tuple[int, ...]) -> PrefixState | None:
        """The state of a prefix under an adapter, as deep as its probe reads; run where it is not known."""
        return self._prefixes.get(adapter, ids)

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
        adapter: str = BASE,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Hidden state at the last token of each id sequence after each of several layers, ``[layers, rows, width]``.

        States are divided by their root mean square, so that a model cut at a layer with a final norm of unit weight gives the
        same. One pass serves all layers and ends after the highest; what the sequences share runs once.

        Args:
            sequences: token ids, at least one each.
            layers: each from 1 to :attr:`depth`.
            adapter: which weights.
            progress: told the tokens that run.
        """
        return layer_states(self, sequences, layers, adapter=adapter, progress=progress)

    @property
    def depth(self) -> int:
        """Number of the model's layers."""
        return self.runner.depth

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

    @property
    def width(self) -> int:
        """Numbers of a state."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    def output_vectors(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """``[tokens, width]`` weights that give tokens' logits from a last hidden state divided by its root mean square.

        What the final norm scales by is part of them; a soft cap on logits is not.
        """
        head = self.model.get_output_embeddings().weight
        norm = getattr(self.model.get_decoder(), "norm", None)
        with torch.inference_mode():
            rows = head[torch.tensor(list(tokens), device=head.device)].float()
            if norm is not None:
                rows = rows * norm(torch.ones(1, head.shape[1], dtype=head.dtype, device=head.device)).float()
        found: NDArray[np.float32] = (rows * self.runner.logit_scale).cpu().numpy()
        return found

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def token_vectors(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the input embedding holds for some tokens, ``[tokens, width]``."""
        rows = self.model.get_input_embeddings().weight[torch.from_numpy(tokens).to(self.model.device)]
        found: NDArray[np.float32] = rows.detach().float().cpu().numpy()
        return found


def _as_model(model: LocalModel) -> Model:
    """Checked by mypy: it is all that the protocol asks for."""
    return model
