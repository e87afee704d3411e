"""Choice of the next token of each answer from logits: greedy or sampled, within a grammar, until stop or limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cotune.errors import DivergedError
from cotune.files import content_hash
from cotune.model.base import Sampling
from cotune.model.structured.token_grammar import GrammarWalk, TokenGrammar


@dataclass
class Answer:
    """An answer during generation.

    Attributes:
        limit: maximum number of tokens, including the stop token.
        ids: its tokens so far.
        ended: whether the model stopped it.
        fed: number of its tokens that the model has read.
    """

    limit: int
    walk: GrammarWalk | None = None
    draws: np.random.Generator | None = None
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    done: bool = False
    fed: int = 0

    def due(self) -> list[int]:
        """Tokens that the model has not read yet."""
        return self.ids[self.fed :]

    def read(self) -> None:
        """Record that the model has read all tokens."""
        self.fed = len(self.ids)


class Chooser:
    """Chooses tokens for the answers of one request.

    Args:
        stops: tokens that end an answer.
        grammar: grammar of the answers; None for free text.
        ahead: whether to append tokens that the grammar determines without logits; the caller must then feed several tokens at
            once.
    """

    def __init__(
        self, stops: Collection[int], sampling: Sampling, grammar: TokenGrammar | None, *, ahead: bool = False
    ) -> None:
        self.stops = frozenset(stops)
        self.sampling = sampling
        self.grammar = grammar
        self.ahead = ahead

    def start(self, prompt_ids: Sequence[int], limit: int) -> Answer:
        draws = None
        if self.sampling.temperature > 0:
            own = int(content_hash({"prompt": list(prompt_ids)}, 16), 16)
            draws = np.random.default_rng([self.sampling.seed, own])
        answer = Answer(limit, self.grammar.start() if self.grammar else None, draws)
        self._go_ahead(answer)
        return answer

    def choose(self, logits: Tensor, answers: Sequence[Answer]) -> None:
        """Choose the next token of each answer, ``logits`` ``[answers, vocabulary]`` in fp32.

        Raises:
            DivergedError: if a logit is NaN or infinite.
        """
        best, tokens = logits.max(dim=1)
        if not bool(torch.isfinite(best).all()):
            raise DivergedError("logits are not finite")
        for row, (token, answer) in enumerate(zip(tokens.tolist(), answers, strict=True)):
            if answer.walk is not None:
                self._held(logits[row], token, answer, answer.walk)
                self._go_ahead(answer)
                continue
            if answer.draws is not None:
                token = self._draw(logits[row], answer.draws)
            if token in self.stops:
                answer.ended = answer.done = True
            else:
                answer.ids.append(token)
                answer.done = len(answer.ids) >= answer.limit

    def _draw(self, logits: Tensor, draws: np.random.Generator) -> int:
        """Inverse transform sampling: one random number for each token, independent of other rows."""
        # On the CPU, which has double precision and reproducible sums.
        shares = torch.softmax(logits.cpu().double() / self.sampling.temperature, dim=0).cumsum(0)
        place = int(torch.searchsorted(shares, draws.random() * float(shares[-1]), right=True))
        return min(place, len(shares) - 1)

    def _held(self, logits: Tensor, likeliest: int, answer: Answer, walk: GrammarWalk) -> None:
        """Choose among the tokens that the grammar allows, or end the answer."""
        token = likeliest
        # If the likeliest of all tokens is allowed, no mask is needed.
        if answer.draws is not None or not walk.allows(likeliest, self.stops):
            logits = logits.masked_fill(torch.from_numpy(~walk.allowed(self.stops)).to(logits.device), -torch.inf)
            if not bool(torch.isfinite(logits.max())):
                self._end(answer)
                return
            token = int(logits.argmax()) if answer.draws is None else self._draw(logits, answer.draws)
        self._take(token, answer, walk)

    def _go_ahead(self, answer: Answer) -> None:
        """Append tokens as long as the grammar allows only one."""
        while self.ahead and answer.walk is not None and not answer.done:
            token = answer.walk.only(self.stops)
            if token is None:
                return
            if answer.draws is not None:
                # Draw a number here too, so that samples do not depend on taking tokens ahead.
                answer.draws.random()
            self._take(token, answer, answer.walk)

    def _take(self, token: int, answer: Answer, walk: GrammarWalk) -> None:
        """Append an allowed token; end the answer if it is complete or the limit is reached."""
        if token in self.stops:
            answer.ended = answer.done = True
            return
        walk.push(token)
        answer.ids.append(token)
        # If nothing can follow, no stop token is needed.
        answer.ended = walk.must_stop
        answer.done = answer.ended or len(answer.ids) >= answer.limit
        if answer.done and not walk.may_stop:
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        assert self.grammar is not None
        answer.ids = self.grammar.ended(answer.ids)
        answer.done = True
