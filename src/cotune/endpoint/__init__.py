"""WHO ANSWERS ELSEWHERE: one client for OpenAI-compatible endpoints, whether they propose, judge, teach or are the model.

How many questions are under way adapts to the server; what was paid for is on disk before it is used."""

from __future__ import annotations

from cotune.endpoint.answers import AnswerCache
from cotune.endpoint.ask import TRIES, Answer, ask
from cotune.endpoint.chat import estimate_tokens
from cotune.endpoint.client import Client, Reply
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Prices, Usage
from cotune.endpoint.server import Endpoint

__all__ = [
    "TRIES",
    "Answer",
    "AnswerCache",
    "Client",
    "Endpoint",
    "EndpointError",
    "Prices",
    "Reply",
    "Usage",
    "ask",
    "estimate_tokens",
]
