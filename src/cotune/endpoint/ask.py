"""One question with a text answer, within bounds on requests and time, as the proposer asks it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotune.endpoint.chat import CHAT, Message, estimate_tokens, message_text
from cotune.endpoint.client import Client
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Usage
from cotune.endpoint.request_format import RequestFormat, Said, find_way

TRIES = 4
"""Most requests for one question, including the first one, but not those refused as malformed."""
_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Answer:
    """An answer and its cost.

    Attributes:
        requests: number of requests sent, failed ones included.
        usage: number of tokens, as the endpoint reports it or else estimated. A failed request counts as an answer of the
            maximum length, the most that it can have cost.
        way: the request format that the server accepted; start the next question with it.
    """

    text: str
    requests: int
    usage: Usage
    way: RequestFormat


def ask(
    client: Client,
    messages: Sequence[Message],
    *,
    way: RequestFormat,
    schema: Mapping[str, Any] | None,
    tries: int,
    most: int,
    patience: float,
) -> Answer:
    """Ask one question, with the client's retries and another request format if one is refused.

    Args:
        way: the request format to try first.
        schema: JSON Schema of the answer, enforced as far as the server supports it.
        tries: most requests, not counting those refused as malformed.
        most: most requests in total, including those.
        patience: seconds for all tries and waits together.

    Raises:
        EndpointError: if there was no answer; the error has the number of requests and tokens that were spent.
    """
    asked = estimate_tokens(messages)
    end = time.monotonic() + patience
    requests, lost, answers = 0, 0, list[Said]()

    def wasted() -> Usage:
        # How much of a lost answer was generated is unknown.
        return Usage(lost * asked, lost * way.tokens)

    def read(body: Any) -> Said:
        text = message_text(body)
        return Said(text, (), Usage.read(body, asked=asked, answer=text))

    def put(tried: RequestFormat) -> Said:
        nonlocal requests, lost
        left = min(tries - lost, most - requests)
        if left < 1:
            raise EndpointError(f"all requests are used up ({requests}), and the last one was refused as malformed")
        body = tried.body(client.endpoint.model, messages, schema, temperature=_TEMPERATURE)
        try:
            reply = client.post(CHAT, body, read, tries=left, patience=end - time.monotonic())
        except EndpointError as error:
            requests, lost = requests + error.requests, lost + error.lost
            raise
        requests, lost = requests + reply.requests, lost + reply.lost
        answers.append(reply.value)
        return reply.value

    try:
        found = find_way(put, way, client.endpoint.model)
    except EndpointError as error:
        raise EndpointError(str(error), requests=requests, lost=lost, usage=wasted(), status=error.status) from None
    return Answer(answers[-1].text, requests, answers[-1].usage + wasted(), found)
