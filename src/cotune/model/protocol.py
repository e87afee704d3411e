"""What scoring, prediction and embedding need of a model, whoever answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cotune.model.generations import Generations, Sampling
from cotune.model.scores import LabelScores
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer

if TYPE_CHECKING:
    from cotune.model.grammar import Grammar

Progress = Callable[[int], None]
"""Called with the number of tokens that were just run."""


class Scorer(Protocol):
    """Scores labels: all that choosing, measuring and predicting need. One behind an endpoint is
    :class:`cotune.model.remote.RemoteModel`."""

    @property
    def name(self) -> str:
        """How the user named it, for cards and messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights and tokenizer; of one elsewhere, of where it is and what it is called there."""
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
