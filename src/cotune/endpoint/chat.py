"""Chat completions: where they are asked for, what a question weighs, and where an answer's text stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.endpoint.prices import tokens_of

Message = Mapping[str, str]

CHAT = "/chat/completions"


def estimate_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens a question has; rather too many than too few."""
    return sum(tokens_of(part) for message in messages for part in message.values()) + 8 * len(messages)


def message_text(body: Any) -> str:
    """The text of a chat completion.

    Raises:
        ValueError: it has none; or ``KeyError``, ``IndexError``, ``TypeError``.
    """
    text = body["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("its content is no text")
    return text
