"""The output type and demonstrations of the bundle that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotune.task.example import Example
from cotune.task.split import duplicate_key
from cotune.task.values.output import Output


@dataclass(frozen=True)
class Known:
    """The output type of an earlier bundle, and the rows whose answers its prompt shows.

    Attributes:
        output: output type of the bundle.
        shown: input fields of the rows that its prompt shows with their answers, name to text.
    """

    output: Output
    shown: Sequence[Mapping[str, str]] = ()

    def keys(self, input_fields: Sequence[str]) -> frozenset[str]:
        """Keys (:func:`cotune.task.split.duplicate_key`) of the shown rows, for fields in this order."""
        rows = ({name: row.get(name, "") for name in input_fields} for row in self.shown)
        return frozenset(duplicate_key(Example("", row, "")) for row in rows)
