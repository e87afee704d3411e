"""Rows with what was answered to them, as metrics read them."""

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
    """What was right and what was answered, row by row.

    Attributes:
        references: the right answer of each row.
        answers: what was answered to it.
        output: the task's output.
        rows: the rows themselves, for a metric that looks at the input; empty where they are not known.
        losses: negative log-likelihood of the right answers in nats a token, ``[rows]``; None where it is not known.
        grades: what a judge says each answer is worth, from 0 to 1, ``[rows]``; None where none was asked.
    """

    references: Sequence[str]
    answers: Sequence[str]
    output: Output
    rows: Sequence[Example] = ()
    losses: Floats | None = None
    grades: Floats | None = None

    def __post_init__(self) -> None:
        """Raises ValueError on unequal lengths or no rows."""
        if len(self.references) == 0:
            raise ValueError("no rows to score")
        if len(self.references) != len(self.answers):
            raise ValueError(f"{len(self.references)} references but {len(self.answers)} predicted ones")

    @property
    def gold(self) -> Sequence[str]:
        """The references under an earlier name, for metrics of other packages."""
        return self.references

    @cached_property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Values of the right answer and of the given one, each None where it is none of the output's type."""
        return [(self.output.value(g), self.output.value(a)) for g, a in zip(self.references, self.answers, strict=True)]

    def each(self, score: Any) -> Floats:
        """``score(reference, answer)`` of every row."""
        scored = (score(reference, answer) for reference, answer in zip(self.references, self.answers, strict=True))
        return np.fromiter(scored, dtype=np.float64, count=len(self.references))
