"""Rows with their answers, the input of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.task.example import Example
from cotune.task.values.output import Output

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answered:
    """Right and given answers, row by row.

    Attributes:
        references: the right answer of each row.
        answers: the given answer of each row.
        rows: the rows themselves, for metrics that use the input; may be empty.
        losses: negative log-likelihood of the right answers in nats per token, ``[rows]``; None if unknown.
        grades: grades of a judge from 0 to 1, ``[rows]``; None without a judge.
    """

    references: Sequence[str]
    answers: Sequence[str]
    output: Output
    rows: Sequence[Example] = ()
    losses: Floats | None = None
    grades: Floats | None = None

    def __post_init__(self) -> None:
        """Raise ValueError on unequal lengths or no rows."""
        if len(self.references) == 0:
            raise ValueError("no rows to score")
        if len(self.references) != len(self.answers):
            raise ValueError(f"{len(self.references)} references but {len(self.answers)} predicted ones")

    @cached_property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Values of the right and the given answer of each row; None for an invalid one."""
        return [(self.output.value(g), self.output.value(a)) for g, a in zip(self.references, self.answers, strict=True)]

    def each(self, score: Any) -> Floats:
        """``score(reference, answer)`` of every row."""
        scored = (score(reference, answer) for reference, answer in zip(self.references, self.answers, strict=True))
        return np.fromiter(scored, dtype=np.float64, count=len(self.references))
