"""What the bundle that a run goes on from knows of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotune.task.example import Example
from cotune.task.split import duplicate_key
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from cotune.prompt.prompt import Demonstration


@dataclass(frozen=True)
class Known:
    """What an earlier bundle answers with, and which answers its prompt gives away.

    Attributes:
        output: what it answers with.
        shown: the rows that its prompt shows with their answers, whatever is asked.
    """

    output: Output
    shown: tuple[Demonstration, ...] = ()

    def keys(self, input_fields: Sequence[str]) -> frozenset[str]:
        """What tells the rows that it shows, see :func:`cotune.task.split.duplicate_key`, for fields in this order."""
        rows = [dict(one.fields) for one in self.shown]
        return frozenset(duplicate_key(Example("", {name: row.get(name, "") for name in input_fields}, "")) for row in rows)
