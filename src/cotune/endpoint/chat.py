"""Chat completions: their path, the estimated number of tokens of a question, and the text of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.endpoint.prices import tokens_of

Message = Mapping[str, str]

CHAT = "/chat/completions"


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Estimated number of tokens of a question, usually too high."""
    return sum(tokens_of(part) for message in messages for part in message.values()) + 8 * len(messages)


def message_text(body: Any) -> str:
    """The text of a chat completion; half of a surrogate pair, which no file could hold, becomes a replacement character.

    Raises:
        ValueError: if it has none; also ``KeyError``, ``IndexError`` or ``TypeError`` if it has another shape.
    """
    text = body["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("the content is not a text")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
