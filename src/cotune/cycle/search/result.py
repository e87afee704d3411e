"""The results of a search that a summary needs, and the record of a cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from cotune.cycle.context import RunContext
from cotune.refine import Proposal
from cotune.task.example import Example


class SearchResult(Protocol):
    """The results of a search that a summary needs.

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

    @property
    def further_rows(self) -> Sequence[Example]:
        """Rows beside train and dev of the task that were learnt from."""
        ...


def record_cycle(
    context: RunContext,
    cycles: list[dict[str, Any]],
    facts: Mapping[str, Any],
    *,
    score: float | None,
    log_loss: float | None,
    steps: int,
) -> None:
    """Append a cycle's record to ``cycles``; a ``cycle`` step.

    ``facts`` are the ``kind`` of the cycle, its ``pool``, ``race``, prompts that were ``tuned``, and the ``winner``, whose
    scores on dev and optimizer steps follow.
    """
    number, tokens = len(cycles) + 1, context.spending.account.tokens
    record = {"cycle": number, **facts, "dev_score": score, "dev_log_loss": log_loss, "steps": steps, "tokens": tokens}
    cycles.append(context.journal.step("cycle", [number, facts["winner"]], lambda: record))
