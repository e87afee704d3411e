"""From logits to the next token of each answer: greedy or drawn, held to a grammar, stopped or cut."""

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
    """One answer while it is being written.

    Attributes:
        limit: tokens that it may have, the stop token included.
        ids: its tokens so far.
        ended: whether the model stopped it.
        done: whether nothing more comes.
        fed: how many of its tokens the model has read.
    """

    limit: int
    walk: GrammarWalk | None = None
    draws: np.random.Generator | None = None
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    done: bool = False
    fed: int = 0

    def due(self) -> list[int]:
        """Tokens that the model has not read."""
        return self.ids[self.fed :]

    def read(self) -> None:
        """The model has read all of them."""
        self.fed = len(self.ids)


class Chooser:
    """Chooses tokens for any answers of one request.

    Args:
        stops: tokens that end an answer.
        sampling: how to choose.
        grammar: what answers are held to, if anything.
        ahead: whether tokens that the grammar leaves no choice about are taken at once, without logits; whoever runs the model
            then feeds several.
    """

    def __init__(
        self, stops: Collection[int], sampling: Sampling, grammar: TokenGrammar | None, *, ahead: bool = False
    ) -> None:
        self.stops = frozenset(stops)
        self.sampling = sampling
        self.grammar = grammar
        self.ahead = ahead

    def start(self, prompt_ids: Sequence[int], limit: int) -> Answer:
        """A new answer after a prompt."""
        draws = None
        if self.sampling.temperature > 0:
            own = int(content_hash({"prompt": list(prompt_ids)}, 16), 16)
            draws = np.random.default_rng([self.sampling.seed, own])
        answer = Answer(limit, self.grammar.start() if self.grammar else None, draws)
        self._go_ahead(answer)
        return answer

    def choose(self, logits: Tensor, answers: Sequence[Answer]) -> None:
        """Take in the next token of each answer, ``logits`` ``[answers, vocabulary]`` in fp32.

        Raises:
            DivergedError: a logit that counts is not a number or infinite.
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
        """Inverse of the cumulative distribution: one number a token, whatever the other rows do."""
        # On the CPU, where double precision always is and a sum comes out the same each time.
        shares = torch.softmax(logits.cpu().double() / self.sampling.temperature, dim=0).cumsum(0)
        place = int(torch.searchsorted(shares, draws.random() * float(shares[-1]), right=True))
        return min(place, len(shares) - 1)

    def _held(self, logits: Tensor, likeliest: int, answer: Answer, walk: GrammarWalk) -> None:
        """Take what the model chooses among the tokens that the grammar allows, or else end the answer."""
        token = likeliest
        # What is likeliest of all is so among those allowed too, and then their mask is of no use.
        if answer.draws is not None or not walk.allows(likeliest, self.stops):
            logits = logits.masked_fill(torch.from_numpy(~walk.allowed(self.stops)).to(logits.device), -torch.inf)
            if not bool(torch.isfinite(logits.max())):
                self._end(answer)
                return
            token = int(logits.argmax()) if answer.draws is None else self._draw(logits, answer.draws)
        self._take(token, answer, walk)

    def _go_ahead(self, answer: Answer) -> None:
        """Take tokens for as long as just one may come, whatever its logit."""
        while self.ahead and answer.walk is not None and not answer.done:
            token = answer.walk.only(self.stops)
            if token is None:
                return
            if answer.draws is not None:
                # A sample is the same whether or not its tokens are taken ahead.
                answer.draws.random()
            self._take(token, answer, answer.walk)

    def _take(self, token: int, answer: Answer, walk: GrammarWalk) -> None:
        """Take a token that may come next; end the answer where it is whole, or the limit is reached."""
        if token in self.stops:
            answer.ended = answer.done = True
            return
        walk.push(token)
        answer.ids.append(token)
        # Where nothing can follow, the stop token need not be asked for.
        answer.ended = walk.must_stop
        answer.done = answer.ended or len(answer.ids) >= answer.limit
        if answer.done and not walk.may_stop:
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        assert self.grammar is not None
        answer.ids = self.grammar.ended(answer.ids)
        answer.done = True
