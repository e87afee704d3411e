"""Errors of endpoints: the one that users see, and those that only the client's retry loop handles."""

from __future__ import annotations

from cotune.endpoint.prices import Usage
from cotune.errors import CotuneError

_REFUSALS = frozenset({400, 413, 422})


class EndpointError(CotuneError):
    """A question got no answer. The message gives the reason and never contains the key.

    Attributes:
        requests: number of requests sent.
        lost: number of these that the server may charge for.
        usage: most tokens that these requests can have used, if estimated.
        status: HTTP status of the last answer; None if there was none.
    """

    def __init__(
        self, why: str, *, requests: int = 0, lost: int = 0, usage: Usage | None = None, status: int | None = None
    ) -> None:
        self.requests, self.lost, self.usage, self.status = requests, lost, usage or Usage(), status
        super().__init__(why)

    @property
    def is_refusal(self) -> bool:
        """Whether the server may have refused this question alone, for its content: a filter, or too long a text."""
        return self.status in _REFUSALS


class Final(Exception):
    """A request failed, and sending it again would not help."""

    def __init__(self, why: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(why)


class TryAgain(Exception):
    """A request failed, and sending it again may help.

    Attributes:
        wait: seconds that the server asks to wait; None if it does not say.
        paid: whether the server may charge for it.
        crowded: whether fewer concurrent requests may help.
    """

    def __init__(self, why: str, wait: float | None = None, *, paid: bool = True, crowded: bool = True) -> None:
        self.why, self.wait, self.paid, self.crowded = why, wait, paid, crowded
        super().__init__(why)
