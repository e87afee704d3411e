"""One labelled row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled row of a task.

    Attributes:
        id: unique within the task: the split file's role and the row's number there, such as ``train:12``.
        fields: input field name to its text, in the task's field order.
        output: the label (or, later, text) that is right for this row.
        group: rows with equal groups are dependent and never torn apart by a split; None where there is none.
    """

    id: str
    fields: Mapping[str, str]
    output: str
    group: str | None = None
