"""Abstention of a bundle: conformal scores of held-out rows, which give a threshold for any error rate.

A run stores the conformal scores (:mod:`cotune.evaluate.stats.conformal`) of its dev rows in ``metrics.json``. They come from
the weights that won on dev, before they were trained on these rows as well, which the shipped weights often are. The guarantee
of split conformal prediction therefore holds exactly for the weights that were evaluated on dev, and for the shipped ones if
they are no worse. It is slightly optimistic because the winner was chosen on the same rows. A run therefore also measures the
coverage of the label sets on the sealed test, and stores it with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from cotune.errors import InputError
from cotune.evaluate.stats.conformal import least_rows, threshold

CONFORMAL = "conformal"
"""Key in ``metrics.json``."""


@dataclass(frozen=True)
class Calibration:
    """Conformal scores of held-out rows: minus the log-probability of the right label, ascending."""

    scores: tuple[float, ...]

    def highest(self, share: float, where: str) -> float:
        """The threshold for a share of rows that may be answered wrongly; ``where`` names the bundle in errors.

        Raises:
            InputError: the share is invalid, or there are too few held-out rows for it.
        """
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
            raise InputError(
                f"{share!r} is not a share of rows", where="unsure", hint="Give a number between 0 and 1, such as 0.05."
            )
        if len(self.scores) < (needed := least_rows(share)):
            enough = math.ceil(1000 / (len(self.scores) + 1)) / 1000
            raise InputError(
                f"a share of {share:g} wrong answers needs {needed} held-out rows, but the run had {len(self.scores)}",
                where=where,
                hint=f"Allow {enough:g} or more, or run again with more labelled rows.",
            )
        return threshold(np.array(self.scores), share)

    @classmethod
    def of(cls, metrics: Any, where: str) -> Calibration | None:
        """Read the scores from ``metrics.json``; None if there are none."""
        found = metrics.get(CONFORMAL) if isinstance(metrics, Mapping) else None
        if found is None:
            return None
        scores = found.get("scores") if isinstance(found, Mapping) else None
        if not isinstance(scores, list) or not all(type(s) in (int, float) and math.isfinite(s) and s >= 0 for s in scores):
            raise InputError("the scores of held-out rows are invalid", where=where, hint="Copy the bundle again.")
        return cls(tuple(sorted(map(float, scores))))
