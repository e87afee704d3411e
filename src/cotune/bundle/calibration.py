"""Abstention of a bundle: conformal scores of held-out rows, which give a threshold for any error rate.

A run stores the scores of :mod:`cotune.evaluate.stats.conformal` of its dev rows in ``metrics.json``. They come from the
weights that won on dev, before they learnt from these rows; the shipped weights have often learnt from them. So the guarantee
of split conformal prediction is exact for the weights that were judged on dev, and holds for the shipped ones if they are no
worse; choosing the winner on the same rows makes it slightly optimistic. Therefore a run also measures the coverage of these
sets on the sealed test, and stores it with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cotune.errors import InputError
from cotune.evaluate.stats.conformal import least_rows, threshold

CONFORMAL = "conformal"
"""Key in ``metrics.json``."""


@dataclass(frozen=True)
class Calibration:
    """Conformal scores of held-out rows.

    Attributes:
        scores: minus the log-probability of the right label, ascending.
    """

    scores: tuple[float, ...]

    def highest(self, share: float, where: str) -> float:
        """The threshold for an error rate.

        Args:
            share: share of rows that may be answered wrongly.
            where: name of the bundle in errors.

        Raises:
            InputError: the share is invalid, or there are too few held-out rows for it.
        """
        if not 0 < share < 1:
            raise InputError(
                f"{share} is no share of rows", where="unsure", hint="Give a number between 0 and 1, such as 0.05."
            )
        if len(self.scores) < (needed := least_rows(share)):
            enough = math.ceil(1000 / (len(self.scores) + 1)) / 1000
            raise InputError(
                f"a share of {share:g} wrong answers needs {needed} held-out rows, and the run had {len(self.scores)}",
                where=where,
                hint=f"Allow {enough:g} or more, or run again with more labelled rows.",
            )
        return threshold(np.array(self.scores), share)

    @classmethod
    def of(cls, metrics: Any, where: str) -> Calibration | None:
        """Read it from ``metrics.json``; None if it has none.

        Raises:
            InputError: it is damaged.
        """
        found = metrics.get(CONFORMAL) if isinstance(metrics, Mapping) else None
        if found is None:
            return None
        scores = found.get("scores") if isinstance(found, Mapping) else None
        if not isinstance(scores, list) or not all(type(s) in (int, float) and math.isfinite(s) and s >= 0 for s in scores):
            raise InputError("the scores of held-out rows are none", where=where, hint="Copy the bundle again.")
        return cls(tuple(sorted(map(float, scores))))
