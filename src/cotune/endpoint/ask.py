"""One question in words, one answer in words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotune.endpoint.chat import CHAT, Message, estimate_tokens, message_text
from cotune.endpoint.client import Client
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Usage
from cotune.endpoint.request_format import RequestFormat, Said, find_way
from cotune.endpoint.server import Endpoint

TRIES = 4
"""Requests of one question at most, the first included and refused ones aside."""
_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: of the model's message.
        requests: that were sent, those in vain included.
        usage: of question and answer, as the endpoint counts them, else estimated; of tries in vain the most that they may have
            used, an answer of full length.
        way: the request that the server understood; the next question begins with it.
    """

    text: str
    requests: int
    usage: Usage
    way: RequestFormat

    @property
    def tokens(self) -> int:
        """Of questions and answer together."""
        return self.usage.total


def ask(
    endpoint: Endpoint,
    messages: Sequence[Message],
    *,
    way: RequestFormat,
    schema: Mapping[str, Any] | None = None,
    tries: int = TRIES,
    most: int | None = None,
    patience: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> Answer:
    """Ask once; again as :class:`cotune.endpoint.client.Client` does, and otherwise where the server refuses the request.

    Args:
        endpoint: whom.
        messages: each with ``role`` and ``content``.
        way: the request to begin with.
        schema: what the answer must fit, as far as the server can be held to it.
        tries: requests at most, those aside that are refused as malformed.
        most: requests at most, those included; None sets no limit.
        patience: seconds for all tries and waits together; None takes two timeouts.
        sleep: waits.
        jitter: a number in [0, 1), drawn for each wait.

    Raises:
        EndpointError: no answer came; holds what was spent.
    """
    asked = estimate_tokens(messages)
    end = time.monotonic() + (2 * endpoint.timeout if patience is None else patience)
    requests, lost, answers = 0, 0, list[Said]()

    def in_vain() -> Usage:
        # Nobody tells how far the model came with an answer that never arrived.
        return Usage(lost * asked, lost * way.tokens)

    def read(body: Any) -> Said:
        text = message_text(body)
        return Said(text, (), Usage.read(body, asked=asked, answer=text))

    with Client(endpoint, sleep=sleep, jitter=jitter) as client:

        def put(tried: RequestFormat) -> Said:
            nonlocal requests, lost
            left = tries - lost if most is None else min(tries - lost, most - requests)
            if left < 1:
                raise EndpointError(f"no request is left after {requests}, the last of which was refused as malformed")
            body = tried.body(endpoint.model, messages, schema, temperature=_TEMPERATURE)
            try:
                reply = client.post(CHAT, body, read, tries=left, patience=end - time.monotonic())
            except EndpointError as error:
                requests, lost = requests + error.requests, lost + error.lost
                raise
            requests, lost = requests + reply.requests, lost + reply.lost
            answers.append(reply.value)
            return reply.value

        try:
            found = find_way(put, way, endpoint.model)
        except EndpointError as error:
            raise EndpointError(str(error), requests=requests, lost=lost, usage=in_vain(), status=error.status) from None
    return Answer(answers[-1].text, requests, answers[-1].usage + in_vain(), found)
