"""How a bundle tells how sure it is: scores of held-out rows, from which thresholds for any share of errors come.

A run keeps the scores of :mod:`cotune.evaluate.stats.conformal` of its dev rows in ``metrics.json``. They come from the weights
that won on dev, before these rows were learnt from. What ships has often learnt from them as well. So the guarantee of split
conformal prediction is exact for the weights that were judged on dev, and for those that ship as far as they are no worse; that
the winner was chosen on the same rows makes it a little too hopeful. That is why a run measures it too: the sets that these
thresholds give are checked on the sealed test, and the coverage found there, with its interval, stands beside the scores.
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
"""Key of ``metrics.json``."""


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out rows' right labels.

    Attributes:
        scores: minus the log-probability of the right label, ascending.
    """

    scores: tuple[float, ...]

    def highest(self, share: float, where: str) -> float:
        """The threshold of a share of errors.

        Args:
            share: of rows that may be answered wrongly.
            where: what errors call the bundle.

        Raises:
            InputError: the share is none, or there are too few held-out rows for it.
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
        """What ``metrics.json`` says of it; None where it says nothing, as in bundles of earlier versions.

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
