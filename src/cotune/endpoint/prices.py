"""What answers cost: tokens as the server counts them, and money at prices that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 10**9
_CHARACTERS_A_TOKEN = 3.0


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more answers.

    Attributes:
        input: of the questions, those that the server had cached included.
        output: of the answers.
        cached: of the questions, those that the server had cached.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        """Of questions and answers."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)

    @classmethod
    def read(cls, body: Any, *, asked: int, answer: str) -> Usage:
        """From an answer's ``usage``; what it does not say, or says absurdly, is estimated.

        Args:
            body: the answer's JSON object.
            asked: about how many tokens the question has.
            answer: the answer's text.
        """
        found = body.get("usage") if isinstance(body, Mapping) else None
        found = found if isinstance(found, Mapping) else {}
        output, total = _count(found.get("completion_tokens")), _count(found.get("total_tokens"))
        told = _count(found.get("prompt_tokens"))
        if told is None and total is not None:
            output = min(total, tokens_of(answer) if output is None else output)
            told = total - output
        details = found.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
        used = asked if told is None else told
        return cls(used, tokens_of(answer) if output is None else output, min(cached or 0, used))


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens.

    Attributes:
        input: of questions.
        output: of answers.
        cached: of the part of questions that the server had cached; None takes the price of any other.
    """

    input: float
    output: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars."""
        cached = self.input if self.cached is None else self.cached
        return ((usage.input - usage.cached) * self.input + usage.cached * cached + usage.output * self.output) / 1e6


def tokens_of(text: str) -> int:
    """About how many tokens a text has; rather too many than too few."""
    return int(len(text) / _CHARACTERS_A_TOKEN)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None
