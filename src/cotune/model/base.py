"""What scoring, prediction and embedding need of a model, whoever answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cotune.prompt.messages import Chooser
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer

if TYPE_CHECKING:
    from cotune.endpoint import Prices
    from cotune.model.structured.grammar import Grammar

Progress = Callable[[int], None]
"""Called with the number of tokens that were just run."""

ENDPOINT = "endpoint"
"""Key of what a bundle's ``prompt.json`` says of a model behind an endpoint."""


@dataclass(frozen=True)
class Capabilities:
    """What a model can do besides scoring labels. Callers ask for what they need, never for what the model is.

    Attributes:
        tune: its weights can be trained, and adapters put into it.
        hidden_states: its tokens and hidden states can be seen.
        likelihoods: it says how likely it finds any given answer, whatever batch the row is in.
        generation: it writes answers.
    """

    tune: bool = False
    hidden_states: bool = False
    likelihoods: bool = False
    generation: bool = True


EVERYTHING = Capabilities(tune=True, hidden_states=True, likelihoods=True, generation=True)


@dataclass(frozen=True)
class SavedModel:
    """What a bundle keeps of who answers, and of how it is asked.

    Attributes:
        asking: what decides, beside the prompt, how rows are asked; for ``prompt.json``.
        text: what the model reads for one row, for people.
        longest: tokens of a prompt at most.
        server: URL of the endpoint that answers, and the environment variable with its key; None on this machine.
    """

    asking: Mapping[str, Any]
    text: str
    longest: int
    server: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class LabelScores:
    """Log-probabilities of every label for every row, before any decision rule.

    Attributes:
        log_probs: ``[rows, labels]`` sums of token log-probabilities; ``-inf`` only where ``pruned``.
        tokens: tokens the model ran for this.
        tokens_saved: tokens that the shared prefix spared against running each row alone.
        truncated: rows whose text had to be shortened.
        cached: rows answered from the cache.
        pruned: some labels that could not win were left out; never use these for calibration.
        cost: US dollars, where answers have a price.
        unmatched: rows whose answer names no label, where answers are words.
    """

    log_probs: NDArray[np.float64]
    tokens: int = 0
    tokens_saved: int = 0
    truncated: int = 0
    cached: int = 0
    pruned: bool = False
    cost: float = 0.0
    unmatched: int = 0


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest; above, tokens are drawn from the softmax of the logits over it.
        seed: of the draws. A row's draws depend on the seed and its own prompt's tokens alone, never on its batch neighbours;
            another seed gives another sample.
    """

    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class AnswerLosses:
    """How well the model expects each row's reference answer.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the answer with its stop token, in nats, summed over its tokens.
        lengths: ``[rows]`` tokens of the answer, the stop token included.
        tokens: tokens the model ran for this.
        tokens_saved: tokens that the shared prefix spared against running each row alone.
        truncated: rows whose text had to be shortened.
        cached: rows answered from the cache.
    """

    losses: NDArray[np.float64]
    lengths: NDArray[np.int64]
    tokens: int = 0
    tokens_saved: int = 0
    truncated: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Generations:
    """One answer a row.

    Attributes:
        texts: the answers, without the stop token.
        ids: their token ids, without the stop token.
        ended: whether an answer stopped by itself; False where the limit cut it or, under a grammar, forced it to its end.
        tokens: tokens the model ran for this.
        written: those of them that belong to the answers.
        tokens_saved: tokens that the shared prefix spared against running each row's prompt alone.
        truncated: rows whose text had to be shortened.
        cached: rows answered from the cache.
        cost: US dollars; 0 where nothing has a price.
        reference_losses: losses of the references, where they were read in the same passes; their tokens are counted here.
        entering_s: seconds that prompts and right answers took; 0 for what came from the cache.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]
    tokens: int = 0
    tokens_saved: int = 0
    truncated: int = 0
    cached: int = 0
    cost: float = 0.0
    reference_losses: AnswerLosses | None = None
    entering_s: float = 0.0
    written: int = 0


class Scorer(Protocol):
    """Scores labels: all that choosing, measuring and predicting need. One behind an endpoint is
    :class:`cotune.model.remote.model.RemoteModel`."""

    @property
    def name(self) -> str:
        """How the user named it, for cards and messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights and tokenizer; of one elsewhere, of where it is and what it is called there."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do besides scoring labels."""
        ...

    def score(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        labels: Sequence[str],
        *,
        adapter: str = ...,
        top: int | None = None,
        progress: Progress | None = None,
    ) -> LabelScores:
        """Log-probabilities of the labels for each row; see :meth:`cotune.model.local.LocalModel.score`."""
        ...


class Writer(Protocol):
    """Writes answers token by token, for tasks whose answers are no labels."""

    def generate(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        *,
        adapter: str = ...,
        limit: int,
        grammar: Grammar | None = None,
        sampling: Sampling = ...,
        progress: Progress | None = None,
    ) -> Generations:
        """An answer to each row; see :meth:`cotune.model.local.LocalModel.generate`."""
        ...


class ModelBackend(Scorer, Writer, Protocol):
    """One that a run can ask: :class:`cotune.model.local.LocalModel` or :class:`cotune.model.remote.model.RemoteModel`."""

    @property
    def chooser(self) -> Chooser | None:
        """Asked where a prompt shows each row other demonstrations; None refuses such prompts."""
        ...

    @chooser.setter
    def chooser(self, chooser: Chooser | None) -> None: ...

    @property
    def prices(self) -> Prices | None:
        """Of its tokens; None where they cost no money."""
        ...

    def saved(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> SavedModel:
        """What a bundle with this prompt keeps of it.

        Args:
            prompt: of the bundle.
            fields: names of a row's input fields.
            labels: the answers to choose from; none where answers are written.
        """
        ...


class AskedModel(ModelBackend, Protocol):
    """One of which nothing is known but what it answers."""

    @property
    def tells_probabilities(self) -> bool:
        """Whether scores are probabilities, or only say which label was named."""
        ...

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer may have."""
        ...

    def row_tokens(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> float:
        """About how many tokens a row costs, question and answer together; nothing is asked."""
        ...


class Model(Scorer, Writer, Protocol):
    """One whose tokens and states can be seen; :class:`cotune.model.local.LocalModel` is one that can also be tuned."""

    @property
    def tokenizer(self) -> Any:
        """Its fast Hugging Face tokenizer."""
        ...

    @property
    def renderer(self) -> Renderer:
        """Makes its token ids."""
        ...

    def last_states(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        adapter: str = ...,
        layer: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Hidden state at the last token of each id sequence, ``[rows, width]``."""
        ...

    def mean_states(
        self,
        sequences: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]],
        *,
        adapter: str = ...,
        layer: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Weighted sum of the hidden states of each id sequence, ``[rows, width]``."""
        ...


@runtime_checkable
class TokenVectors(Protocol):
    """A model whose table of token vectors can be read; one behind an API's cannot."""

    @property
    def tokenizer(self) -> Any:
        """Its fast Hugging Face tokenizer."""
        ...

    @property
    def vocabulary(self) -> int:
        """Rows of its table of token vectors."""
        ...

    def token_vectors(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """What its table holds for some tokens, ``[tokens, width]``."""
        ...
