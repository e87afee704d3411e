"""Vectors of rows, by which demonstrations are spread and failures are clustered: each row is embedded once a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.budget.stopwatch import Stopwatch
from cotune.embed import Embedder
from cotune.model.base import Progress
from cotune.task.example import Example

Vectors = NDArray[np.float32]


class RowVectors:
    """Embeds rows and keeps their vectors.

    Args:
        embedder: makes what places texts; it is told the tokens that run.
        stopwatch: takes the seconds of it.

    Attributes:
        dev_rows: dev rows whose embedding stands in the journal and is paid for.
        stock_paid: whether the rows that the nearest demonstrations are chosen from are paid for.
    """

    def __init__(self, embedder: Callable[[Progress | None], Embedder], stopwatch: Stopwatch) -> None:
        self.embedder, self._stopwatch = embedder, stopwatch
        self._kept: dict[tuple[str, ...], Vectors] = {}
        self.dev_rows = 0
        self.stock_paid = False

    def of(self, rows: Sequence[Example]) -> tuple[Vectors, int]:
        """``[rows, width]``, and the tokens that ran for it: none where these rows were embedded before in this session."""
        key = tuple(row.id for row in rows)
        if key in self._kept:
            return self._kept[key], 0
        found, tokens = self.texts([row.text for row in rows])
        self._kept[key] = found
        return found, tokens

    def texts(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """``[texts, width]`` and the tokens that ran; nothing is kept."""
        told: list[int] = []
        with self._stopwatch:
            found = self.embedder(told.append).embed(list(texts))
        return found, sum(told)

    def paid_for_dev(self, rows: int) -> None:
        """So many dev rows were embedded by a recorded step."""
        self.dev_rows = self.dev_rows or rows

    def pay_for_stock(self) -> bool:
        """Whether the rows that the nearest are chosen from have still to be paid for; from now on they are."""
        owed, self.stock_paid = not self.stock_paid, True
        return owed
