"""From logits to the next token of each answer: greedy or drawn, held to a grammar, stopped or cut."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cotune.errors import DivergedError
from cotune.files import content_hash
from cotune.model.generations import Sampling
from cotune.model.json_terms import END
from cotune.model.token_grammar import GrammarWalk, TokenGrammar

# Tokens that the library allows and the terms do not are rare; after so many of them in one place the answer is ended.
_ATTEMPTS = 16


@dataclass
class Answer:
    """One answer while it is being written.

    Attributes:
        limit: tokens that it may have, the stop token included.
        ids: its tokens so far.
        ended: whether the model stopped it.
        done: whether nothing more comes.
        choices: how often logits were read for it.
    """

    limit: int
    walk: GrammarWalk | None = None
    draws: np.random.Generator | None = None
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    done: bool = False
    choices: int = 0


class Chooser:
    """Chooses tokens for any answers of one request.

    Args:
        stops: tokens that end an answer.
        sampling: how to choose.
        grammar: what answers are held to, if anything.
    """

    def __init__(self, stops: Collection[int], sampling: Sampling, grammar: TokenGrammar | None) -> None:
        self.stops = frozenset(stops)
        self.sampling = sampling
        self.grammar = grammar

    def start(self, prompt_ids: Sequence[int], limit: int) -> Answer:
        """A new answer after a prompt."""
        draws = None
        if self.sampling.temperature > 0:
            own = int(content_hash({"prompt": list(prompt_ids)}, 16), 16)
            draws = np.random.default_rng([self.sampling.seed, own])
        return Answer(limit, self.grammar.start() if self.grammar else None, draws)

    def choose(self, logits: Tensor, answers: Sequence[Answer]) -> list[int]:
        """The next token of each answer, ``logits`` ``[answers, vocabulary]`` in fp32.

        Raises:
            DivergedError: a logit that counts is not a number or infinite.
        """
        best, tokens = logits.max(dim=1)
        if not bool(torch.isfinite(best).all()):
            raise DivergedError("logits are not finite")
        walks = [answer.walk for answer in answers if answer.walk is not None]
        if walks:
            allowed = np.stack([walk.allowed(self.stops) for walk in walks])
            logits = logits.masked_fill(torch.from_numpy(~allowed).to(logits.device), -torch.inf)
            tokens = logits.argmax(dim=1)
        likeliest = tokens.tolist()
        for row, answer in enumerate(answers):
            answer.choices += 1
            token = likeliest[row] if answer.draws is None else self._draw(logits[row], answer.draws)
            if answer.walk is not None:
                self._held(logits[row], token, answer, answer.walk)
            elif token in self.stops:
                answer.ended = answer.done = True
            else:
                answer.ids.append(token)
                answer.done = len(answer.ids) >= answer.limit
        return [answer.ids[-1] if answer.ids else 0 for answer in answers]

    def _draw(self, logits: Tensor, draws: np.random.Generator) -> int:
        """Inverse of the cumulative distribution: one number a token, whatever the other rows do."""
        # On the CPU, where double precision always is and a sum comes out the same each time.
        shares = torch.softmax(logits.cpu().double() / self.sampling.temperature, dim=0).cumsum(0)
        place = int(torch.searchsorted(shares, draws.random() * float(shares[-1]), right=True))
        return min(place, len(shares) - 1)

    def _held(self, logits: Tensor, token: int, answer: Answer, walk: GrammarWalk) -> None:
        """Take a token that the library allows, ``logits`` being masked, or another, or else end the answer in time."""
        left = answer.limit - len(answer.ids)
        for _ in range(_ATTEMPTS):
            if not math.isfinite(float(logits[token])):
                break
            if token in self.stops:
                answer.ended = answer.done = True
                return
            term = walk.after(token)
            if term is not None:
                if not walk.fits(term, left - 1):
                    break
                walk.push(token, term)
                answer.ids.append(token)
                # Where nothing can follow, the stop token need not be asked for.
                answer.ended = term is END
                answer.done = answer.ended or len(answer.ids) >= answer.limit
                return
            logits[token] = -torch.inf
            token = int(logits.argmax()) if answer.draws is None else self._draw(logits, answer.draws)
        answer.ids += walk.finish()
        answer.done = True
