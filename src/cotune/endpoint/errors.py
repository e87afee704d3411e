"""What goes wrong with an endpoint: what a user reads, and what only the client's loop sees."""

from __future__ import annotations

from cotune.endpoint.prices import Usage
from cotune.errors import CotuneError


class EndpointError(CotuneError):
    """A question got no answer; says why, without a key in it.

    Attributes:
        requests: that were sent.
        lost: of these, requests that the model may have worked for in vain.
        usage: what those may have cost at most, where that was reckoned.
        status: of the HTTP answer that ended it; None where there was none.
    """

    def __init__(
        self, why: str, *, requests: int = 0, lost: int = 0, usage: Usage | None = None, status: int | None = None
    ) -> None:
        self.requests, self.lost, self.usage, self.status = requests, lost, usage or Usage(), status
        super().__init__(why)


class Final(Exception):
    """A request failed, and so would any other."""

    def __init__(self, why: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(why)


class TryAgain(Exception):
    """A request failed in a way that another one may not.

    Attributes:
        why: in words.
        wait: seconds that the server asks for; None where it does not.
        paid: whether the model may have worked for it.
        crowded: whether fewer requests at once might have helped.
    """

    def __init__(self, why: str, wait: float | None = None, *, paid: bool = True, crowded: bool = True) -> None:
        self.why, self.wait, self.paid, self.crowded = why, wait, paid, crowded
        super().__init__(why)
