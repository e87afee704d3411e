"""The address of an endpoint, and its key."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cotune.endpoint.errors import EndpointError

REMOTE = "openai:"
"""Prefix of the names of models behind an endpoint."""


def is_loopback(host: str) -> bool:
    if "%" in host:
        # An IPv6 zone, or an escape that another parser may read as another name.
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Endpoint:
    """The address of a language model behind an HTTP server.

    Attributes:
        base_url: base address such as ``http://127.0.0.1:8080/v1``; ``/chat/completions`` is appended.
        model: name of the model at the server.
        key_env: environment variable that holds the key; None sends no key. The key itself is never stored.
        timeout: seconds that one request may take, including its answer.
        section: section of the config, for error messages.
    """

    base_url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0
    section: str = "endpoint"

    @property
    def identity(self) -> list[str]:
        """The settings that can change an answer: the server's address and the model's name."""
        return [self.base_url.rstrip("/"), self.model]


LEAST_SECRET = 8
"""Fewest characters of a key that is taken out of answers; keys of providers have many more."""


@dataclass(frozen=True, repr=False)
class Key:
    """An API key in memory. It is removed from everything that a server returns, since servers may quote the request."""

    text: str | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> Key:
        """Read the key from the environment.

        Raises:
            EndpointError: if the variable is not set, or contains characters that cannot be sent in a header.
        """
        name = endpoint.key_env
        if name is None:
            return cls(None)
        key = os.environ.get(name, "").strip()
        if not key:
            raise EndpointError(f"the environment variable {name} ({endpoint.section}.key_env) is not set")
        if not (key.isascii() and key.isprintable()):
            raise EndpointError(
                f"the environment variable {name} ({endpoint.section}.key_env) contains characters that cannot be sent"
            )
        return cls(key)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.text is None else {"Authorization": f"Bearer {self.text}"}

    def without(self, text: str) -> str:
        """The text with the key removed, both as it is and in any JSON spelling."""
        if self.text is None or (self.text not in text and "\\" not in text):
            return text
        return self._written.sub("[key]", text)

    def cleaned(self, value: Any) -> Any:
        """A JSON value with the key removed from all its strings, names of members included.

        A short key, as servers on one's own machine get one, is left: ``none`` or ``1`` may be a part of any answer.
        """
        if self.text is None or len(self.text) < LEAST_SECRET:
            return value
        return self._cleaned(value)

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, list):
            return [self._cleaned(item) for item in value]
        if isinstance(value, dict):
            return {self.without(name): self._cleaned(item) for name, item in value.items()}
        return value

    @cached_property
    def _written(self) -> re.Pattern[str]:
        """A pattern of the key with each character literal or as a JSON escape; nested JSON has its escapes escaped again."""
        forms = (rf"(?:\\{{1,4}}(?i:u{ord(c):04x})|\\{{0,4}}{re.escape(c)})" for c in self.text or "")
        return re.compile("".join(forms))
