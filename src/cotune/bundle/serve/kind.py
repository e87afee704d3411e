"""Kinds of work for the models, and errors of work that is not answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cotune.errors import CotuneError


class Kind(Protocol):
    """A kind of work. Items of one kind (the same object) run together."""

    def run(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return a result for each item. Called by the batcher's thread only."""
        ...

    def size(self, item: Any) -> int:
        """Number of characters of an item that would be read."""
        ...

    def shortened(self, item: Any) -> Any:
        """A shorter item with the same result except for the ``cut()`` mark; None if the item cannot be shortened."""
        ...


class QueueFull(CotuneError):
    """Too many items are waiting.

    Attributes:
        retry_after: whole seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__("too many rows are waiting")


class Gone(CotuneError):
    """The client has disconnected."""


class WorkFailed(CotuneError):
    """Work failed with an error that is not an ``Exception``, such as a panic in a library written in Rust.

    The message names only the kind of failure, since a panic's own text may contain the request.
    """


class ModelStopped(CotuneError):
    """The model's thread has ended, so that no request can be answered."""

    def __init__(self) -> None:
        super().__init__("the model has stopped; restart the server")


class Ending(CotuneError):
    """The server is shutting down and the time for remaining requests has passed."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; try again when it is back")
