"""Sensitivity of a model's score to the prompt's format, before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.arms import ArmScores, ArmsMetric, Metric
from cotune.evaluate.stats.intervals import Interval, proportion_interval
from cotune.evaluate.stats.resampling import Floats, evaluate_over, group_index, resampling_weights
from cotune.evaluate.words import signed

DRAWS = 2000
_LEVEL = 0.95
_TAIL = (1 - _LEVEL) / 2
MEASURES = ("min", "max", "range", "sd")


@dataclass(frozen=True, slots=True)
class Measure:
    """One summary statistic of the scores of several formats.

    Attributes:
        value: corrected for chance: scores on few rows vary even if the formats are equally good.
        observed: the uncorrected number.
        ci: interval of the corrected number.
    """

    value: float
    observed: float
    ci: Interval

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "observed": self.observed, "ci": self.ci.as_list()}


@dataclass(frozen=True, slots=True)
class Robustness:
    """Scores under several formats of one prompt, by the base model and by the tuned one.

    Attributes:
        n: number of rows, the same for every format and both models.
        base: score of each format under the base model.
        tuned: the same under the tuned model.
        before: the :data:`MEASURES` of the base model.
        after: the same of the tuned model.
        change: standard deviation after tuning minus before; below 0 the tuned model is less sensitive.
    """

    n: int
    base: tuple[float, ...]
    tuned: tuple[float, ...]
    before: dict[str, Measure]
    after: dict[str, Measure]
    change: Measure

    @property
    def significant(self) -> bool:
        return self.change.ci.high < 0 or self.change.ci.low > 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "base": {"scores": list(self.base), **{name: self.before[name].as_dict() for name in MEASURES}},
            "tuned": {"scores": list(self.tuned), **{name: self.after[name].as_dict() for name in MEASURES}},
            "change": {**self.change.as_dict(), "significant": self.significant},
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """A sentence on whether tuning makes the model less sensitive to the format."""
        before, after = (100 * side["sd"].value for side in (self.before, self.after))
        spread = (
            f"between formats, scores differ by {before:.1f} points before tuning and {after:.1f} after (standard deviation)"
        )
        change, low, high = (signed(100 * value) for value in (self.change.value, self.change.ci.low, self.change.ci.high))
        uncertain = f"change {change}, 95% interval {low} to {high}"
        if not self.significant:
            question = "Does tuning make the model less sensitive to the prompt's format? No significant difference"
            return f"{question}: {spread}; {uncertain}."
        word = "less" if self.change.value < 0 else "more"
        return f"Tuning makes the model {word} sensitive to the prompt's format: {spread}; {uncertain}."


def robustness(
    base: Sequence[ArmScores],
    tuned: Sequence[ArmScores],
    *,
    metric: Metric = "mean",
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Robustness:
    """Compare the spread of scores over formats between two models, paired row by row.

    Formats are fixed, rows are random. All rows are resampled together, for every format and both models. A spread observed on
    few rows is too large, more so for the model with more errors; uncorrected, it would call every good model robust. So the
    variance due to chance, estimated by the resamples, is subtracted, and the scores are shrunk towards their mean accordingly:
    worst, best, range and standard deviation are those of the shrunken scores. The observed variance over the noise is about a
    noncentral chi-square, which gives the interval of the standard deviation; that of the change is made from the intervals of
    both standard deviations.

    Args:
        base: scores of the base model under each of at least two formats, on the same rows.
        tuned: the same for the tuned model, with formats in the same order.
        groups: group id of each row, if rows depend on each other.

    Raises:
        ValueError: fewer than two formats, or the two models' formats or rows do not fit.

    Source: format spread as in Sclar et al., FormatSpread (arXiv 2310.11324); interval of a noncentrality as in Steiger
    (Psychological Methods 2004), with degrees of freedom for unequal variances as in Box (Annals of Mathematical Statistics
    1954); no upper limit below what no spread at all would give: Cowan et al. (arXiv 1105.3166); change: MOVER, Zou and
    Donner (Statistics in Medicine 2008).
    """
    if len(base) != len(tuned) or len(base) < 2:
        raise ValueError(f"at least two formats, the same for both models, are needed, not {len(base)} and {len(tuned)}")
    formats = len(base)
    table = ArmsMetric({str(place): arm for place, arm in enumerate((*base, *tuned))}, metric)
    statistic = table.statistic()
    scores = evaluate_over(statistic, iter([np.ones((1, table.rows))]))[0]
    resampled = evaluate_over(statistic, resampling_weights(table.rows, draws, seed, groups))
    away = resampled - scores
    if (uncut := table.uncut_statistic(groups)) is not None:
        # After the cut at 0 a low score hardly varies, and chance would seem small.
        whole = evaluate_over(uncut, iter([np.ones((1, table.rows))]))
        away = evaluate_over(uncut, resampling_weights(table.rows, draws, seed, groups)) - whole
    units = table.rows if groups is None else int(group_index(groups).max()) + 1
    if table.is_zero_one:
        each = [proportion_interval(column, groups=groups, level=_LEVEL) for column in table.scores.T]
        ends = np.array([[one.low, one.high] for one in each])
    else:
        ends = np.quantile(resampled, [_TAIL, 1 - _TAIL], axis=0).T
    sides = (slice(0, formats), slice(formats, None))
    before, after = (_measures(scores[side], away[:, side], ends[side], units) for side in sides)
    alike = np.array_equal(resampled[:, sides[0]], resampled[:, sides[1]])
    return Robustness(
        table.rows,
        tuple(map(float, scores[sides[0]])),
        tuple(map(float, scores[sides[1]])),
        before,
        after,
        _change(before["sd"], after["sd"], alike=alike),
    )


def _measures(scores: Floats, away: Floats, ends: Floats, units: int) -> dict[str, Measure]:
    """The measures of one model.

    Args:
        scores: score of each format, shape (formats,).
        away: deviation of each resample's scores from them, shape (draws, formats).
        ends: interval of each format's score, shape (formats, 2).
        units: number of resampled units (rows or groups).
    """
    sd = _deviation(scores, away, units)
    lowest, highest, middle = (float(number) for number in (scores.min(), scores.max(), scores.mean()))
    kept = sd.value / sd.observed if sd.observed > 0 else 0.0
    worst, best = middle - kept * max(0.0, middle - lowest), middle + kept * max(0.0, highest - middle)
    # The lower end is the lowest end of any format's own interval. The upper end has to allow for the selection of the format:
    # it uses the largest error among all formats. If all rows are right, or all wrong, resamples show no error, but a format's
    # own interval does.
    below, above = (float(np.quantile(far, _LEVEL)) for far in (-away.min(axis=1), away.max(axis=1)))
    low = _around(worst, lowest, float(ends[:, 0].min()), max(lowest + below, float(ends[:, 1].min())))
    high = _around(best, highest, min(highest - above, float(ends[:, 0].max())), float(ends[:, 1].max()))
    counted = highest - lowest
    ratio = counted / sd.observed if sd.observed > 0 else (2 * (len(scores) - 1)) ** 0.5
    apart = float(np.quantile(np.ptp(away, axis=1), _LEVEL))
    widest = min(ratio * sd.ci.high, high.ci.high - low.ci.low)
    spread = _around(high.value - low.value, counted, min(ratio * sd.ci.low, counted - apart), widest)
    return {"min": low, "max": high, "range": spread, "sd": sd}


def _deviation(scores: Floats, away: Floats, units: int) -> Measure:
    """Standard deviation of the formats' scores, corrected for chance."""
    formats = len(scores)
    counted = float(np.var(scores, ddof=1))
    largest = (formats // 2 * (formats - formats // 2) / (formats * (formats - 1))) ** 0.5
    if units < 2:
        return _around(counted**0.5, counted**0.5, 0.0, largest)
    apart = away - away.mean(axis=1, keepdims=True)
    # Resamples of n units have (n - 1) / n of the variance of samples.
    covariance = np.atleast_2d(np.cov(apart, rowvar=False)) * units / (units - 1)
    total = float(np.trace(covariance))
    noise = total / (formats - 1)
    value = max(0.0, counted - noise) ** 0.5
    freedom = total**2 / float(np.sum(covariance**2)) if total > 1e-18 else formats - 1.0
    # The noise is an estimate, may be larger in the direction in which the formats differ, and is not zero if no resample
    # showed any: half a row could always have been different.
    gaps = scores - scores.mean()
    along = float(gaps @ covariance @ gaps) / float(gaps @ gaps) if counted > 1e-18 else 0.0
    wider = float(special.stdtrit(units - 1, 1 - _TAIL) / special.ndtri(1 - _TAIL)) ** 2
    unit = max(noise, along, 0.5 / units**2) * wider / freedom
    seen = counted / unit
    low = float(special.chndtrinc(seen, freedom, 1 - _TAIL)) if special.chdtrc(freedom, seen) < _TAIL else 0.0
    # Variation below that of chance is treated as none.
    high = float(special.chndtrinc(max(seen, freedom), freedom, _TAIL))
    return _around(value, counted**0.5, (low * unit) ** 0.5, min(largest, (high * unit) ** 0.5))


def _change(before: Measure, after: Measure, *, alike: bool) -> Measure:
    """After minus before, bounded by the ends of both intervals."""
    value, observed = after.value - before.value, after.observed - before.observed
    if alike:
        return Measure(value, observed, Interval(value, value))
    down = float(np.hypot(after.value - after.ci.low, before.ci.high - before.value))
    up = float(np.hypot(after.ci.high - after.value, before.value - before.ci.low))
    low, high = after.ci.low - before.ci.high, after.ci.high - before.ci.low
    return Measure(value, observed, Interval(max(low, value - down), min(high, value + up)))


def _around(value: float, observed: float, low: float, high: float) -> Measure:
    value = min(1.0, max(0.0, value))
    return Measure(value, observed, Interval(max(0.0, min(value, low)), min(1.0, max(value, high))))
