"""Which endpoint is asked, and the key that it is asked with."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cotune.endpoint.errors import EndpointError

REMOTE = "openai:"
"""What names of models behind an endpoint begin with."""


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine itself."""
    if "%" in host:
        # A zone of IPv6, or an escape that others may read as another name.
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        """A text with the key taken out, as it is and however JSON writes it."""
        if self.text is None or (self.text not in text and "\\" not in text):
            return text
        return self._written.sub("[key]", text)

    def cleaned(self, value: Any) -> Any:
        """A JSON value with the key taken out of all its texts, names of members included."""
        if isinstance(value, str):
            return self.without(value)
        if isinstance(value, list):
            return [self.cleaned(item) for item in value]
        if isinstance(value, dict):
            return {self.without(name): self.cleaned(item) for name, item in value.items()}
        return value

    @cached_property
    def _written(self) -> re.Pattern[str]:
        """The key, each of its characters as it is or by its number; an answer may hold JSON in turn, with escapes escaped."""
        forms = (rf"(?:\\{{1,4}}(?i:u{ord(c):04x})|\\{{0,4}}{re.escape(c)})" for c in self.text or "")
        return re.compile("".join(forms))
