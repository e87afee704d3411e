"""Which endpoint is asked, and the key that it is asked with."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from cotune.endpoint.errors import EndpointError

REMOTE = "openai:"
"""What names of models behind an endpoint begin with."""


@dataclass(frozen=True)
class Endpoint:
    """Where a language model answers.

    Attributes:
        base_url: such as ``http://127.0.0.1:8080/v1``; ``/chat/completions`` is added.
        model: its name there.
        key_env: environment variable that holds the key; None asks without one. The key itself is never kept.
        timeout: seconds that one request may take, answer included.
        section: of the config, for messages.
    """

    base_url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0
    section: str = "endpoint"

    @property
    def identity(self) -> list[str]:
        """What of it can change an answer: where the server is, and the model's name there."""
        return [self.base_url.rstrip("/"), self.model]


@dataclass(frozen=True, repr=False)
class Key:
    """A key in memory. It is sent, and taken out of whatever comes back, since servers quote what they were sent."""

    text: str | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> Key:
        """Read it from the environment.

        Raises:
            EndpointError: the variable is not set, or holds what no key can have.
        """
        name = endpoint.key_env
        if name is None:
            return cls(None)
        key = os.environ.get(name, "").strip()
        if not key:
            raise EndpointError(f"the environment variable {name} ({endpoint.section}.key_env) is not set")
        if not (key.isascii() and key.isprintable()):
            raise EndpointError(
                f"the environment variable {name} ({endpoint.section}.key_env) holds characters that no key can have"
            )
        return cls(key)

    @property
    def headers(self) -> dict[str, str]:
        """Of each request."""
        return {} if self.text is None else {"Authorization": f"Bearer {self.text}"}

    def without(self, text: str) -> str:
        """A text with the key taken out, as it is and as JSON writes it."""
        if self.text is None:
            return text
        return text.replace(self.text, "[key]").replace(json.dumps(self.text)[1:-1], "[key]")
