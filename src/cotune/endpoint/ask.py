"""One question in words, one answer in words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotune.endpoint.client import Client
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Usage, tokens_of
from cotune.endpoint.server import Endpoint

Message = Mapping[str, str]

TRIES = 4
"""Requests of one question at most, the first included."""
CHAT = "/chat/completions"


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: of the model's message.
        requests: that were sent, those in vain included.
        usage: of question and answer, as the endpoint counts them, else estimated; questions in vain included.
    """

    text: str
    requests: int
    usage: Usage

    @property
    def tokens(self) -> int:
        """Of questions and answer together."""
        return self.usage.total


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


def ask(
    endpoint: Endpoint,
    messages: Sequence[Message],
    *,
    answer_tokens: int,
    tries: int = TRIES,
    patience: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> Answer:
    """Ask once, and again as :class:`cotune.endpoint.client.Client` does.

    Args:
        endpoint: whom.
        messages: each with ``role`` and ``content``.
        answer_tokens: of the answer at most.
        tries: requests at most.
        patience: seconds for all tries and waits together; None takes two timeouts.
        sleep: waits.
        jitter: a number in [0, 1), drawn for each wait.

    Raises:
        EndpointError: no answer came; holds what was spent.
    """
    body = {"model": endpoint.model, "messages": [dict(m) for m in messages], "max_tokens": answer_tokens, "temperature": 0.7}
    asked = estimate_tokens(messages)

    def read(found: Any) -> tuple[str, Usage]:
        text = message_text(found)
        return text, Usage.read(found, asked=asked, answer=text)

    with Client(endpoint, sleep=sleep, jitter=jitter) as client:
        try:
            reply = client.post(CHAT, body, read, tries=tries, patience=2 * endpoint.timeout if patience is None else patience)
        except EndpointError as error:
            raise EndpointError(str(error), requests=error.requests, tokens=error.tokens * asked, status=error.status) from None
    text, usage = reply.value
    return Answer(text, reply.requests, usage + Usage(reply.lost * asked))
