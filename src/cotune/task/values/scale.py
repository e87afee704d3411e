"""Numbers as thresholds: whether a number is above each of a few, which can be read off a hidden state.

Each threshold is a field with two values, so a number is a row of choices like JSON with closed fields. The probability of
being above each threshold gives a distribution over numbers, whose mean is the answer. For ordered classes this is the approach
of Frank and Hall (2001, doi:10.1007/3-540-44795-4_13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.number import number_in, number_text
from cotune.task.values.output_fields import FieldAnswers

MOST_THRESHOLDS = 16
"""Each threshold is one more regression; 8 and 32 were no better (docs/probe-measurements.md)."""
_MOST_SHARE = 4.0
"""Largest part of other numbers, as a multiple of its share, under which a scale still suits them; a guess."""
_STEP = 0.01
"""Largest step between two answers, as a share of the standard deviation of the labelled numbers."""
_COPIED_DECIMALS, _MOST_DECIMALS = 6, 15
"""Maximum number of decimals taken from the labelled numbers, of which doubles may have 15 that mean nothing; and at all."""


@dataclass(frozen=True)
class Scale:
    """Thresholds between the numbers of a task.

    Attributes:
        thresholds: increasing; none is equal to a labelled number.
        levels: mean of the labelled numbers below the first threshold, between each two, and above the last.
        decimals: number of decimals of an answer.
    """

    words: ClassVar[bool] = False

    thresholds: tuple[float, ...]
    levels: tuple[float, ...]
    decimals: int

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``at most 2.5`` and ``above 2.5`` for each threshold."""
        texts = [number_text(Decimal(repr(one))) for one in self.thresholds]
        return tuple(f"{side} {text}" for text in texts for side in ("at most", "above"))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Two for each threshold."""
        return (2,) * len(self.thresholds)

    def places(self, output: str, text: str = "") -> NDArray[np.int64] | None:
        """``[1, thresholds]`` place in :attr:`names` of the side that a number is on; None if the output has no number."""
        number = number_in(output)
        return None if number is None else np.array([[2 * i + (number > one) for i, one in enumerate(self.thresholds)]])

    def answers(self, log_probs: NDArray[np.float64], texts: Sequence[str] = ()) -> tuple[str, ...]:
        """The mean of each row's distribution as text, given ``[rows, 2 x thresholds]`` log-probabilities of :attr:`names`."""
        numbers = self.levels[0] + np.exp(log_probs[:, 1::2]) @ np.diff(self.levels)
        return tuple(number_text(Decimal(f"{number:.{self.decimals}f}")) for number in numbers.tolist())

    @property
    def shown(self) -> tuple[str, ...]:
        """Both sides of each threshold."""
        return self.names

    def judged(self, log_probs: NDArray[np.float64], texts: Sequence[str] = ()) -> FieldAnswers:
        """The answers with the probabilities of both sides of each threshold."""
        return FieldAnswers(self.answers(log_probs), np.exp(log_probs), None)

    def suits(self, outputs: Sequence[str]) -> bool:
        """Whether other labelled numbers have about this distribution: no part is empty, or has four times its share."""
        numbers = [float(number) for output in outputs if (number := number_in(output)) is not None]
        counts = np.bincount(np.searchsorted(self.thresholds, numbers), minlength=len(self.levels))
        return bool(counts.min() > 0 and counts.max() <= max(1.0, _MOST_SHARE * len(numbers) / len(counts)))

    def to_json(self) -> dict[str, Any]:
        """Keywords of a JSON Schema, which other readers ignore."""
        return {"thresholds": list(self.thresholds), "levels": list(self.levels), "decimals": self.decimals}

    @classmethod
    def from_json(cls, schema: Mapping[str, Any]) -> Scale | None:
        """The scale in a number's schema; None if it has none.

        Raises:
            ValueError: its parts do not fit together.
        """
        if "thresholds" not in schema:
            return None
        thresholds, levels, decimals = (schema.get(name) for name in ("thresholds", "levels", "decimals"))
        if not isinstance(thresholds, list) or not isinstance(levels, list) or type(decimals) is not int:
            raise ValueError("a number's scale needs thresholds, levels and decimals")
        both = [*thresholds, *levels]
        if not all(type(one) in (int, float) and math.isfinite(one) for one in both) or not 0 <= decimals <= _MOST_DECIMALS:
            raise ValueError("a number's scale has a value that is out of range")
        rising = sorted(set(thresholds)) == thresholds and sorted(levels) == levels
        if not rising or not thresholds or len(levels) != len(thresholds) + 1:
            raise ValueError("the thresholds and levels of a number's scale do not fit together")
        return cls(tuple(map(float, thresholds)), tuple(map(float, levels)), decimals)


def scale_of(outputs: Sequence[str]) -> Scale | None:
    """The scale of labelled numbers: thresholds that cut them into parts of about equal size.

    None if all are equal, or too large or too close together for doubles.
    """
    numbers = [number_in(output) for output in outputs]
    values = np.sort([float(number) for number in numbers if number is not None])
    if not len(values) or not np.isfinite(values).all():
        return None
    different = np.unique(values)
    with np.errstate(over="ignore"):
        between, spread = (different[1:] + different[:-1]) / 2, float(values.std())
    # Between neighbouring doubles there is none.
    inside = (different[:-1] < between) & (between < different[1:])
    if not inside.any() or not np.isfinite([*between, spread]).all():
        return None
    shares = np.arange(1, MOST_THRESHOLDS + 1) / (MOST_THRESHOLDS + 1)
    # The first place between two different numbers at or above each quantile.
    places = np.searchsorted(between, np.quantile(values, shares)).clip(0, len(between) - 1)
    chosen = np.unique(places[inside[places]])
    if not len(chosen):
        return None
    # 1.2 instead of 1.2000000000000002, unless a number lies between.
    short = np.array([float(f"{one:.15g}") for one in between[chosen]])
    thresholds = np.where((different[chosen] < short) & (short < different[chosen + 1]), short, between[chosen])
    parts = np.searchsorted(thresholds, values)
    levels = [float(values[parts == part].mean()) for part in range(len(thresholds) + 1)]
    written = max(_decimals(number) for number in numbers if number is not None)
    needed = math.ceil(-math.log10(_STEP * spread)) if spread > 0 else 0
    if needed > _MOST_DECIMALS:
        # With so few decimals all answers would be 0.
        return None
    decimals = min(max(min(written, _COPIED_DECIMALS), needed), _MOST_DECIMALS)
    return Scale(tuple(thresholds.tolist()), tuple(levels), decimals)


def _decimals(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
