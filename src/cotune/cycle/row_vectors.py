"""Vectors of rows, for diverse demonstrations and clusters of failures; each row is embedded once per session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.budget.spending import Stopwatch
from cotune.embed import Embedder
from cotune.model.base import Progress
from cotune.task.example import Example

Vectors = NDArray[np.float32]


class RowVectors:
    """Embeds rows and keeps their vectors.

    Attributes:
        embedder: creates an embedder from a function that receives its tokens.
        dev_rows: number of dev rows whose embedding is recorded and paid for.
        stock_paid: whether the embedding of the stock of nearest demonstrations is paid for.
    """

    def __init__(self, embedder: Callable[[Progress | None], Embedder], stopwatch: Stopwatch) -> None:
        self.embedder, self._stopwatch = embedder, stopwatch
        self._kept: dict[str, Vectors] = {}
        self.dev_rows = 0
        self.stock_paid = False

    def of(self, rows: Sequence[Example]) -> tuple[Vectors, int]:
        """``[rows, width]``, and the number of computed tokens, without rows that were already embedded in this session."""
        told: list[int] = []
        if new := [row for row in rows if row.id not in self._kept]:
            with self._stopwatch:
                found = self.embedder(told.append).embed([row.text for row in new])
            self._kept.update(zip((row.id for row in new), found, strict=True))
        return np.stack([self._kept[row.id] for row in rows]), sum(told)

    def paid_for_dev(self, rows: int) -> None:
        """Note that a recorded step embedded dev rows."""
        self.dev_rows = max(self.dev_rows, rows)

    def pay_for_stock(self) -> bool:
        """Return whether the stock of nearest demonstrations must still be paid for, and mark it as paid."""
        owed, self.stock_paid = not self.stock_paid, True
        return owed
