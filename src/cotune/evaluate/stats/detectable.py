"""The smallest gain that a test can detect, computed before the test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.errors import counted
from cotune.evaluate.words import metric_words

ALPHA = 0.05
_POWER = 0.8
ASSUMED_CORRELATION = 0.3
"""Correlation of two arms' differences within a group that is assumed before any are known."""


def mcnemar_power(n: int, effect: float, discordant: float) -> float:
    """Power of exact McNemar for a true gain of ``effect`` if the arms differ on a share ``discordant`` of ``n`` rows."""
    spread = 9 * np.sqrt(n * discordant * (1 - discordant)) + 9
    counts = np.arange(max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread)) + 1)
    rejecting = _largest_rejected(counts)
    share = min(1.0, (discordant + effect) / (2 * discordant))
    lower = np.where(rejecting >= 0, special.bdtr(np.maximum(rejecting, 0), counts, 1 - share), 0.0)
    upper = np.where(rejecting >= 0, special.bdtr(np.maximum(rejecting, 0), counts, share), 0.0)
    log_choose = special.gammaln(n + 1) - special.gammaln(counts + 1) - special.gammaln(n - counts + 1)
    weights = np.exp(log_choose + special.xlogy(counts, discordant) + special.xlog1py(n - counts, -discordant))
    return float(np.sum(weights * (lower + upper)))


def _largest_rejected(discordant: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The largest minority count that exact McNemar rejects for each number of discordant rows; -1 if there is none."""
    low, high = np.full(len(discordant), -1), np.asarray(discordant // 2, dtype=np.int64)
    while np.any(low < high):
        middle = (low + high + 1) // 2
        rejected = 2 * special.bdtr(middle, discordant, 0.5) <= ALPHA
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle - 1)
    return low


def minimum_detectable_effect(n: int, *, discordant: float = 0.1) -> float:
    """The smallest true gain in accuracy that exact McNemar finds in 80% of tests.

    Args:
        discordant: share of rows on which exactly one arm is right; for a larger effect, all rows that differ are taken to
            favour the better arm.

    Returns:
        A share, such as 0.06 for six points; 1.0 if no gain would be found.

    Source: exact unconditional power of McNemar's test (Duffy, Biometrics 1984).
    """
    if n < 1 or not 0 < discordant <= 1:
        raise ValueError(f"no effect to detect with n={n} and discordant={discordant}")
    if mcnemar_power(n, 1.0, 1.0) < _POWER:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        detected = mcnemar_power(n, middle, max(discordant, middle)) >= _POWER
        low, high = (low, middle) if detected else (middle, high)
    return high


def detectable_sentence(n: int, *, group_sizes: Sequence[int] = (), metric: str = "accuracy") -> str:
    """Sentence on what a run's test can show: 'With 200 test rows, a gain below about 6 points ...'.

    Args:
        group_sizes: number of rows of each group, if rows are grouped. Their correlation is unknown before the run, so one is
            assumed and named.
        metric: name of the metric. The effect is computed for right and wrong rows; for other metrics it is only a rough guide.

    Source: the design effect of a mean of clusters (Kish, Survey Sampling 1965).
    """
    rows, subject = n, f"With {counted(n, 'test row')}"
    if group_sizes:
        effect = 1 + (sum(size * size for size in group_sizes) / sum(group_sizes) - 1) * ASSUMED_CORRELATION
        rows = max(1, round(n / effect))
        subject += (
            f" in {counted(len(group_sizes), 'group')}, worth about {counted(rows, 'row')} at a "
            f"correlation of {ASSUMED_CORRELATION} within groups"
        )
    note = ""
    if metric != "accuracy":
        note = f" This is meant for accuracy; the metric is {metric_words(metric)}, for which it is a rough guide."
    # With so few groups, all signs agree by chance more often than the level allows.
    hopeless = bool(group_sizes) and 2.0 ** (1 - len(group_sizes)) > ALPHA
    least = 1.0 if hopeless else minimum_detectable_effect(rows)
    if least >= 1.0:
        return f"{subject}, no gain of any size can be distinguished from noise.{note}"
    points = 100 * least
    amount = f"{points:.0f}" if points >= 1.95 else f"{points:.1f}"
    return f"{subject}, a gain below about {amount} points cannot be distinguished from noise.{note}"
