"""The cost of answers: number of tokens as the server reports it, and money at the prices in the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 10**9
_CHARACTERS_A_TOKEN = 3.0


@dataclass(frozen=True)
class Usage:
    """Number of tokens of one or more requests.

    Attributes:
        input: tokens of the questions, cached ones included.
        output: tokens of the answers.
        cached: tokens of the questions that the server had cached.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        """Tokens of questions and answers together."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input + other.input, self.output + other.output, self.cached + other.cached)

    @classmethod
    def read(cls, body: Any, *, asked: int, answer: str) -> Usage:
        """Read an answer's ``usage``; missing or impossible numbers are replaced by estimates.

        Args:
            asked: estimated tokens of the question.
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
    """Prices in US dollars per million tokens.

    Attributes:
        cached: price of the part of questions that the server had cached; None means the same as ``input``.
    """

    input: float
    output: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        cached = self.input if self.cached is None else self.cached
        return ((usage.input - usage.cached) * self.input + usage.cached * cached + usage.output * self.output) / 1e6


def tokens_of(text: str) -> int:
    """Estimated number of tokens of a text, usually too high; characters of other scripts than Latin have two to four bytes."""
    return int(len(text.encode("utf-8", "surrogatepass")) / _CHARACTERS_A_TOKEN)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST else None
