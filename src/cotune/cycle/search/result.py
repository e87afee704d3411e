"""What a summary needs to know of any search."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from cotune.refine import Proposal


class SearchResult(Protocol):
    """What a summary needs to know of any search.

    Attributes:
        by_probe: whether answers are read off hidden states by a probe.
        proposals: every prompt that was scored, by id.
        cycles: a record for each cycle.
        stopped: why the loop ended.
    """

    by_probe: ClassVar[bool]
    proposals: dict[str, Proposal]
    cycles: list[dict[str, Any]]
    stopped: str

    @property
    def prompts_tuned(self) -> int:
        """Prompts whose weights were tuned."""
        ...
