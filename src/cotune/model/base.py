"""Protocols of models: what scoring, prediction and embedding need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cotune.prompt.messages import Chooser
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from cotune.prompt.truncate import Truncation

if TYPE_CHECKING:
    from cotune.endpoint import Prices
    from cotune.model.structured.grammar import Grammar

Progress = Callable[[int], None]
"""Called with the number of tokens that just ran."""

ENDPOINT = "endpoint"
"""Key in a bundle's ``prompt.json`` for a model behind an endpoint."""


@dataclass(frozen=True)
class Capabilities:
    """The capabilities of a model besides scoring labels. Callers check these, never the class of the model.

    Attributes:
        tune: its weights can be trained, and it can use adapters.
        hidden_states: its tokens and hidden states can be read.
        likelihoods: it returns the likelihood of any given answer, independent of the batch.
        generation: it generates answers.
        grammar: generated answers follow a given grammar; others are checked after they were generated.
        endpoint: its answers come from a server, one request per row; a request may fail, and may cost money.
    """

    tune: bool = False
    hidden_states: bool = False
    likelihoods: bool = False
    generation: bool = True
    grammar: bool = False
    endpoint: bool = False


EVERYTHING = Capabilities(tune=True, hidden_states=True, likelihoods=True, generation=True, grammar=True)


@dataclass(frozen=True)
class SavedModel:
    """A model's data in a bundle, and how to query it.

    Attributes:
        asking: settings, beside the prompt, that decide how rows are asked; for ``prompt.json``.
        text: an example of a rendered prompt.
        longest: most tokens of a prompt.
        server: URL of the endpoint and the environment variable with its key; None for a local model.
        truncate: what a row of a longer prompt loses; an endpoint's rows are not shortened.
    """

    asking: Mapping[str, Any]
    text: str
    longest: int
    server: tuple[str, str | None] | None = None
    truncate: Truncation = "end"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a request took.

    Attributes:
        tokens: number of tokens that ran; those of a pass that ends at a probe's layer count by the share of layers that ran.
        tokens_saved: number of tokens saved by the shared prefix compared to running each row's prompt alone.
        truncated: number of rows whose text was shortened.
        cached: number of rows answered from the cache, or whose lower layers were known.
        cost: US dollars; 0 without prices.
    """

    tokens: int = 0
    tokens_saved: int = 0
    truncated: int = 0
    cached: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class LabelScores(Counts):
    """Log-probabilities of every label for every row, before any decision rule.

    Attributes:
        log_probs: ``[rows, labels]`` sums of token log-probabilities; ``-inf`` only for labels that were skipped because they
            could not be among the best that were asked for. Such scores must not be used for calibration.
        unmatched: number of rows whose answer names no label, for answers in words.
    """

    log_probs: NDArray[np.float64]
    unmatched: int = 0


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Attributes:
        temperature: 0 takes the likeliest token; above 0, tokens are drawn from the softmax of the logits divided by it.
        seed: seed of the draws. A row's draws depend only on the seed and its own prompt's tokens, never on the batch.
    """

    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class AnswerLosses(Counts):
    """Losses of each row's reference answer.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the answer including its stop token, in nats, summed over its tokens.
    """

    losses: NDArray[np.float64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Generations(Counts):
    """One generated answer per row.

    Attributes:
        texts: the answers, without the stop token.
        ids: their token ids, without the stop token.
        ended: whether an answer stopped by itself; False if it was cut or, under a grammar, completed at the limit.
        reference_losses: losses of the reference answers, if computed in the same passes; their tokens are included here.
        entering_s: seconds for prompts and reference answers; 0 for cached rows.
        written: number of the tokens that belong to the answers.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]
    reference_losses: AnswerLosses | None = None
    entering_s: float = 0.0
    written: int = 0


class Scorer(Protocol):
    """A model that scores labels. For an endpoint: :class:`cotune.model.remote.model.RemoteModel`."""

    @property
    def name(self) -> str:
        """The user's name of it, for cards and messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights and tokenizer, or of its address and name for a remote model."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Its capabilities besides scoring labels."""
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
    """A model that generates answers."""

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
        """Generate an answer to each row; see :meth:`cotune.model.local.LocalModel.generate`."""
        ...


class ModelBackend(Scorer, Writer, Protocol):
    """A model that a run can use: :class:`cotune.model.local.LocalModel` or :class:`cotune.model.remote.model.RemoteModel`."""

    @property
    def chooser(self) -> Chooser | None:
        """Chooses nearest demonstrations; without one, prompts that need them are refused."""
        ...

    @chooser.setter
    def chooser(self, chooser: Chooser | None) -> None: ...

    @property
    def prices(self) -> Prices | None:
        """Prices of its tokens, if any."""
        ...

    def saved(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> SavedModel:
        """What a bundle with this prompt stores about it.

        Args:
            prompt: prompt of the bundle.
            fields: names of a row's input fields.
            labels: all labels; none for generated answers.
        """
        ...

    def close(self) -> None:
        """Close its connections and files."""
        ...


class AskedModel(ModelBackend, Protocol):
    """A model that only returns answers."""

    @property
    def tells_probabilities(self) -> bool:
        """Whether scores are probabilities, or only indicate the named label."""
        ...

    @property
    def answer_tokens(self) -> int:
        """Maximum length of an answer in tokens."""
        ...

    def row_tokens(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> float:
        """Estimated number of tokens of a row, question and answer together; sends nothing."""
        ...


class Model(Scorer, Writer, Protocol):
    """A model whose tokens and states can be read; :class:`cotune.model.local.LocalModel` is one that can also be tuned."""

    @property
    def tokenizer(self) -> Any:
        """Its fast Hugging Face tokenizer."""
        ...

    @property
    def renderer(self) -> Renderer:
        """Its renderer."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Facts about machine and engine that can change its results; part of cache keys."""
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


@runtime_checkable
class TokenVectors(Protocol):
    """A model whose token embeddings can be read."""

    @property
    def tokenizer(self) -> Any:
        """Its fast Hugging Face tokenizer."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of rows of its embedding table."""
        ...

    def token_vectors(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of some tokens, ``[tokens, width]``."""
        ...
