"""What generation takes and returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """How well the model expects each row's gold answer.

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
        gold: losses of the right answers, where they were read in the same passes; their tokens are counted here.
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
    gold: AnswerLosses | None = None
    entering_s: float = 0.0
    written: int = 0
