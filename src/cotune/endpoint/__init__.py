"""The client for OpenAI-compatible endpoints: proposer, judge, teacher, or the model whose prompt is tuned.

The number of concurrent requests adapts to the server. Every paid answer is written to disk before it is used."""

from __future__ import annotations

from cotune.endpoint.answers import AnswerCache
from cotune.endpoint.ask import TRIES, ask
from cotune.endpoint.chat import estimate_tokens
from cotune.endpoint.client import Client
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Prices, Usage
from cotune.endpoint.server import Endpoint

__all__ = ["TRIES", "AnswerCache", "Client", "Endpoint", "EndpointError", "Prices", "Usage", "ask", "estimate_tokens"]
