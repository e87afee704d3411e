"""What can be asked of the models, and why it may not be answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from cotune.errors import CotuneError


class Kind(Protocol):
    """A kind of work. Items of one kind (the same object) run together."""

    def run(self, items: Sequence[Any]) -> Sequence[Any]:
        """A result for each item; called by the batcher's thread alone."""
        ...

    def size(self, item: Any) -> int:
        """Characters of an item that would be read."""
        ...

    def shortened(self, item: Any) -> Any:
        """The item with less to read and the same result but for being ``cut()``; None where there is nothing to leave out."""
        ...


class QueueFull(CotuneError):
    """More is waiting than may wait.

    Attributes:
        retry_after: whole seconds after which there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__("too much is waiting to be answered")


class Gone(CotuneError):
    """The client has hung up."""


class WorkFailed(CotuneError):
    """Work broke off in a way that no ``Exception`` tells of, such as a panic of a library written in Rust.

    Its message names the kind of failure alone, since a panic's own text may hold what was sent.
    """


class ModelStopped(CotuneError):
    """The model's thread has ended, and nothing will be answered any more."""

    def __init__(self) -> None:
        super().__init__("the model has stopped; restart the server")


class Ending(CotuneError):
    """The server ends and the time to answer what had arrived is over."""

    def __init__(self) -> None:
        super().__init__("the server is ending; ask again when it is back")
