"""How much a model's score hangs on the format of the prompt, before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.arms import ArmScores, ArmsMetric, Metric
from cotune.evaluate.intervals import Interval
from cotune.evaluate.resampling import Floats, evaluate_over, resampling_weights

DRAWS = 2000
MEASURES = ("min", "max", "range", "sd")
_CALLED_DRAWS = 500


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about the scores of several formats.

    Attributes:
        value: corrected for the rows' chance: scores on few rows scatter even where the formats are equally good.
        observed: as counted on the rows.
        ci: interval of the corrected number.
    """

    value: float
    observed: float
    ci: Interval

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "observed": self.observed, "ci": self.ci.as_list()}


@dataclass(frozen=True, slots=True)
class Robustness:
    """Scores under several formats of one prompt, by the base model and by the tuned one.

    Attributes:
        n: rows, the same for every format and both models.
        base: score of each format under the base model.
        tuned: the same under the tuned model.
        before: the :data:`MEASURES` of the base model.
        after: of the tuned model.
        change: standard deviation after tuning minus before; below 0 the tuned model is less picky.
    """

    n: int
    base: tuple[float, ...]
    tuned: tuple[float, ...]
    before: dict[str, Measure]
    after: dict[str, Measure]
    change: Measure

    @property
    def significant(self) -> bool:
        """Whether the interval of the change leaves out zero."""
        return self.change.ci.high < 0 or self.change.ci.low > 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "n": self.n,
            "base": {"scores": list(self.base), **{name: self.before[name].as_dict() for name in MEASURES}},
            "tuned": {"scores": list(self.tuned), **{name: self.after[name].as_dict() for name in MEASURES}},
            "change": {**self.change.as_dict(), "significant": self.significant},
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """Whether tuning makes the model less picky about how it is asked, in plain words."""
        before, after = (100 * side["sd"].value for side in (self.before, self.after))
        spread = (
            f"between formats, scores differ by {before:.1f} points before tuning and {after:.1f} after (standard deviation)"
        )
        low, high = (100 * end for end in (self.change.ci.low, self.change.ci.high))
        uncertain = f"change {100 * self.change.value:+.1f}, 95% interval {low:+.1f} to {high:+.1f}"
        if not self.significant:
            question = "Does tuning make the model less picky about how it is asked? No significant difference"
            return f"{question}: {spread}; {uncertain}."
        word = "less" if self.change.value < 0 else "more"
        return f"Tuning makes the model {word} picky about how it is asked: {spread}; {uncertain}."


def robustness(
    base: Sequence[ArmScores],
    tuned: Sequence[ArmScores],
    *,
    metric: Metric = "mean",
    gold: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
    draws: int | None = None,
) -> Robustness:
    """Compare the spread of scores over formats between two models, paired row by row.

    Formats are taken as they are, rows as drawn. All rows are resampled together, for every format and both models alike.
    A spread counted on few rows is too large, and more so for the model that errs more; taken as it is, it would
    call every good model robust. So what the rows' chance adds, which the resamples show, is taken away, and intervals
    are basic bootstrap intervals around what is left. Spreads are cut at zero.

    Args:
        base: what the base model scored under each format, two formats at least, on the same rows.
        tuned: the same of the tuned model, formats in the same order.
        metric: see :data:`cotune.evaluate.arms.Metric`.
        gold: right answers, needed where the metric is not a mean.
        groups: group id of each row, where rows depend on each other.
        seed: of the resampling.
        level: of the intervals.
        draws: resamples; None: 2,000, or 500 for a metric that is a function.

    Raises:
        ValueError: fewer than two formats, or the two models' formats or rows do not fit.

    Source: format spread as in Sclar et al., FormatSpread (arXiv 2310.11324); bias and basic interval as in Davison and
    Hinkley, Bootstrap Methods and their Application (1997), sections 2.1 and 5.2.
    """
    if len(base) != len(tuned) or len(base) < 2:
        raise ValueError(f"two formats or more are needed, as many for each model, not {len(base)} and {len(tuned)}")
    formats = len(base)
    table = ArmsMetric({str(place): arm for place, arm in enumerate((*base, *tuned))}, metric, gold)
    statistic = table.statistic()
    scores = evaluate_over(statistic, iter([np.ones((1, table.rows))]))[0]
    count = draws or (_CALLED_DRAWS if callable(metric) else DRAWS)
    resampled = evaluate_over(statistic, resampling_weights(table.rows, count, seed, groups))
    sides = (slice(0, formats), slice(formats, None))
    before, after = (_measures(scores[side], resampled[:, side], level) for side in sides)
    return Robustness(
        table.rows,
        tuple(map(float, scores[sides[0]])),
        tuple(map(float, scores[sides[1]])),
        before,
        after,
        _change(scores, resampled, sides, level),
    )


def _measures(scores: Floats, resampled: Floats, level: float) -> dict[str, Measure]:
    lowest, highest = scores.min(), scores.max()
    low, high = resampled.min(axis=1), resampled.max(axis=1)
    away = resampled - scores
    # Extremes pick out the luckiest and unluckiest format, so the inner ends reach as far as the worst format's error does.
    above, below = (float(np.quantile(far, level)) for far in (away.max(axis=1), -away.min(axis=1)))
    apart = float(np.quantile(np.ptp(away, axis=1), level))
    return {
        "min": _reaching(_corrected(lowest, low, level, 0.0, 1.0), up_to=lowest + below),
        "max": _reaching(_corrected(highest, high, level, 0.0, 1.0), down_to=highest - above),
        "range": _reaching(_corrected(highest - lowest, high - low, level, 0.0, np.inf), down_to=highest - lowest - apart),
        "sd": _root(_corrected(_variance(scores), _variance(resampled), level, 0.0, np.inf)),
    }


def _change(scores: Floats, resampled: Floats, sides: tuple[slice, slice], level: float) -> Measure:
    observed = [_variance(scores[side]) for side in sides]
    drawn = [_variance(resampled[:, side]) for side in sides]
    free = [float(2 * one - many.mean()) for one, many in zip(observed, drawn, strict=True)]
    # The variances are nearly unbiased and their errors nearly alike in both directions; their roots are neither.
    ends = _corrected(observed[1] - observed[0], drawn[1] - drawn[0], level, -np.inf, np.inf).ci
    roots = np.sqrt(np.maximum(0.0, free))
    value = float(roots[1] - roots[0])
    # (a - b) / (sqrt(a) + sqrt(b)) is the difference of the roots; where both are near zero, what was seen sets the scale.
    scale = max(1e-12, float(roots.sum()), float(np.sqrt(observed).sum()) / 2)
    ci = Interval(min(value, ends.low / scale), max(value, ends.high / scale))
    return Measure(value, float(np.sqrt(observed[1]) - np.sqrt(observed[0])), ci)


def _corrected(value: Any, drawn: Floats, level: float, least: float, most: float) -> Measure:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    bias = drawn.mean() - value
    # A resample stands to the rows as the rows stand to the world: what it adds, the rows have added already.
    ends = (2 * value - high, 2 * value - low)
    clipped = [float(np.clip(number, least, most)) for number in (value - bias, *ends)]
    return Measure(clipped[0], float(value), Interval(clipped[1], clipped[2]))


def _reaching(measure: Measure, *, down_to: float = np.inf, up_to: float = -np.inf) -> Measure:
    ci = Interval(min(measure.ci.low, max(0.0, float(down_to))), max(measure.ci.high, min(1.0, float(up_to))))
    return Measure(measure.value, measure.observed, ci)


def _root(measure: Measure) -> Measure:
    low, high = np.sqrt([measure.ci.low, measure.ci.high])
    return Measure(float(np.sqrt(measure.value)), float(np.sqrt(measure.observed)), Interval(float(low), float(high)))


def _variance(scores: Floats) -> Any:
    return np.var(scores, axis=-1, ddof=1)
