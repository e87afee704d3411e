"""Gains of prompt, weights, and both together, with tests and intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.arms import ArmScores, ArmsMetric, Metric
from cotune.evaluate.frozen_arms import ALPHA, ARMS, EVERY_GAIN, GAINS, PREVIOUS, Pair, hypothesis, reduced
from cotune.evaluate.stats.intervals import DRAWS, FEW_DIFFERING, Interval
from cotune.evaluate.stats.paired import (
    contrasts,
    discordant_rows,
    interval_of,
    mcnemar,
    paired_intervals,
    sign_flip_test,
)
from cotune.evaluate.stats.resampling import Floats, LimitsAt, OfSums, group_index
from cotune.evaluate.stats.together import IntervalAt, read_together

_PERMUTATIONS = 10_000
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Gain:
    """One gain with its uncertainty.

    Attributes:
        value: the gain; above 0 is better, also for the log-loss (reduction in nats per row).
        ci: paired interval, simultaneous for all gains that are reported together.
        p: p-value against no gain, corrected for all gains that are reported together; below 0.05 if and only if ``ci``
            excludes zero.
        ci_single: paired interval of this gain alone.
        p_single: p-value of this gain alone.
        identical: whether the arms are the same candidate, or their difference cancels out, so that there is nothing to test.
        test: method of ``p``.
        method: method of ``ci``.
        noise: size of a gain that numerical noise could cause; see :mod:`cotune.evaluate.noise`.
    """

    value: float
    ci: Interval
    p: float
    ci_single: Interval
    p_single: float
    identical: bool = False
    test: str = ""
    method: str = ""
    noise: float = 0.0

    @property
    def within_noise(self) -> bool:
        """Whether numerical noise alone could cause the gain."""
        return self.noise > 0 and abs(self.value) <= self.noise

    def significant(self) -> bool:
        """Whether the corrected p-value is below :data:`ALPHA` and the gain above the numerical noise."""
        return self.p < ALPHA and not self.within_noise

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "ci": self.ci.as_list(),
            "p": self.p,
            "ci_single": self.ci_single.as_list(),
            "p_single": self.p_single,
            "identical": self.identical,
            "test": self.test,
            "interval": self.method,
            "noise": self.noise,
            "within_noise": self.within_noise,
        }


@dataclass(frozen=True, slots=True)
class Attribution:
    """The gains of a run.

    Attributes:
        gains: by name, on the metric, ``prompt_given_tuning`` first.
        log_loss: the same on the log-loss (reduction in nats per row); empty if an arm has no log-loss. Only ``synergy`` is
            corrected together with ``gains``, since only it is reported with them; the others are corrected among themselves.
    """

    n: int
    gains: dict[str, Gain]
    log_loss: dict[str, Gain]

    def as_dict(self) -> dict[str, Any]:
        """For ``summary.json``: the gains on the metric, and ``synergy_log_loss``."""
        named = {name: gain.as_dict() for name, gain in self.gains.items()}
        if "synergy" in self.log_loss:
            named["synergy_log_loss"] = self.log_loss["synergy"].as_dict()
        return named


def attribute(
    arms: Mapping[str, ArmScores],
    *,
    metric: Metric = "mean",
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    permutations: int = _PERMUTATIONS,
    left_out: Collection[str] = (),
) -> Attribution:
    """Compute the gains between the five arms, and over the arm ``previous`` if there is one, paired by row.

    Differences of two arms' 0/1 scores are tested by exact McNemar; all others by permuting each row's results between the
    arms, which for ``synergy`` is exact only if the prompt makes no difference, and approximate otherwise. With ``groups`` a
    group's rows are resampled and permuted together. Intervals are paired BCa bootstraps, except for 0/1 scores of two arms
    never narrower than a t interval, see :func:`cotune.evaluate.stats.paired.contrasts`. For 0/1 scores of two arms that differ
    on fewer than 10 rows Tango's score interval is used, since resampling so few rows understates the uncertainty; for grouped
    rows on their effective number. Gains that are zero by construction are not tested and do not count in the correction, and
    two gains that compare the same arms count once; see :func:`cotune.evaluate.stats.together.read_together`.

    Args:
        arms: the arms of :data:`ARMS` by name, on the same rows in the same order.
        groups: group id of each row, if rows depend on each other.
        left_out: names of gains that are not asked for, so that they do not count in the correction either.

    Raises:
        ValueError: an arm is missing, or rows do not fit.

    Source: paired analysis as in Miller, Adding Error Bars to Evals (arXiv 2411.00640); permutation as in Noreen,
    Computer-Intensive Methods for Testing Hypotheses (1989).
    """
    missing = [name for name in ARMS if name not in arms]
    if missing:
        raise ValueError(f"arms are missing: {', '.join(missing)}")
    five = {name: arms[name] for name in ARMS}
    chosen = {**five, **({PREVIOUS: arms[PREVIOUS]} if PREVIOUS in arms else {})}
    sampling = _Sampling(groups, seed, draws, permutations)
    same = {name: arm.candidate or name for name, arm in chosen.items()}
    table = ArmsMetric(chosen, metric)
    wanted = {name: pairs for name, pairs in (EVERY_GAIN if PREVIOUS in chosen else GAINS).items() if name not in left_out}
    compared = _compared(table, same, wanted, sampling, of_scores=True)
    losses: dict[str, _Compared | None] = {}
    if all(arm.log_loss is not None for arm in five.values()):
        negative = {name: ArmScores(-np.asarray(arm.log_loss)) for name, arm in five.items()}
        of_five = {name: pairs for name, pairs in wanted.items() if name in GAINS}
        losses = _compared(ArmsMetric(negative, "mean"), same, of_five, sampling)
    together = {**compared, **({"synergy_log_loss": losses["synergy"]} if "synergy" in losses else {})}
    gains = _corrected(together, same)
    if "synergy_log_loss" not in gains:
        return Attribution(table.rows, gains, _corrected(losses, same))
    synergy = gains.pop("synergy_log_loss")
    return Attribution(table.rows, gains, {**_corrected(losses, same), "synergy": synergy})


@dataclass(frozen=True, slots=True)
class _Sampling:
    """Settings of resampling and permutation."""

    groups: npt.ArrayLike | None
    seed: int
    draws: int
    permutations: int


@dataclass(frozen=True, slots=True)
class _Compared:
    """One gain before correction: its test, and its interval at any level, with their names."""

    value: float
    p: float
    test: str
    interval_at: IntervalAt
    method: str


def _compared(
    table: ArmsMetric,
    same: Mapping[str, str],
    wanted: Mapping[str, tuple[Pair, ...]],
    sampling: _Sampling,
    *,
    of_scores: bool = False,
) -> dict[str, _Compared | None]:
    """Each wanted gain by name; None if the same candidate is on both sides.

    Limits of gains ``of_scores``, which are from 0 to 1, stay within what is possible.
    """
    coefficients = np.zeros((len(table.names), len(wanted)))
    for column, pairs in enumerate(wanted.values()):
        for first, second in pairs:
            coefficients[table.names.index(first), column] += 1
            coefficients[table.names.index(second), column] -= 1

    def differences(scores: OfSums) -> OfSums:
        return OfSums(scores.table, lambda sums: scores.of(sums) @ coefficients)

    differs = np.stack([table.differs(pairs) for pairs in wanted.values()], axis=1)
    compared = {name: reduced(pairs, same) for name, pairs in wanted.items()}
    of_shares = np.array([len(pairs) == 1 and table.is_zero_one for pairs in compared.values()])

    def limits_of(scores: OfSums) -> tuple[Floats, LimitsAt]:
        return contrasts(
            differences(scores),
            differs,
            seed=sampling.seed,
            draws=sampling.draws,
            groups=sampling.groups,
            # Not needed for the difference of two shares.
            widened=~of_shares,
        )

    value, limits = limits_of(table.statistic())
    if (uncut := table.uncut_statistic(sampling.groups)) is not None:
        # A score of 0 may be one of 0.1 that drew unlucky rows; after the cut it would not vary.
        limits = _widest(limits, limits_of(uncut)[1])
    permuted: dict[tuple[Pair, ...], float] = {}

    def permutation(pairs: Sequence[Pair]) -> float:
        # Two gains may compare the same candidates under different names.
        candidates = tuple((same[first], same[second]) for first, second in pairs)
        if candidates not in permuted:
            permuted[candidates] = _permutation(table, pairs, sampling)
        return permuted[candidates]

    gains: dict[str, _Compared | None] = {}
    for column, (name, pairs) in enumerate(compared.items()):
        if not pairs:
            gains[name] = None
            continue
        resampled = _column(limits, column)
        if not of_shares[column]:
            method = "paired BCa bootstrap, widened by a t interval"
            p = permutation(pairs)
            possible = _possible(resampled, len(pairs)) if of_scores else resampled
            gains[name] = _Compared(float(value[column]), p, "paired permutation", possible, method)
            continue
        before, after = (table.scores[:, table.names.index(arm)] for arm in reversed(pairs[0]))
        interval_at, method = _of_shares(before, after, resampled, sampling)
        if sampling.groups is not None:
            p, test = permutation(pairs), "paired permutation"
        else:
            p, test = mcnemar(*discordant_rows(before, after)), "exact McNemar"
        gains[name] = _Compared(float(value[column]), p, test, _possible(interval_at, 1), method)
    return gains


def _widest(one: LimitsAt, other: LimitsAt) -> LimitsAt:
    def limits(level: float) -> tuple[Floats, Floats]:
        (low, high), (also_low, also_high) = one(level), other(level)
        return np.minimum(low, also_low), np.maximum(high, also_high)

    return limits


def _column(limits: LimitsAt, column: int) -> IntervalAt:
    return lambda level: interval_of(limits(level), column)


def _possible(interval_at: IntervalAt, differences: int) -> IntervalAt:
    """Limits of a sum of so many differences of scores from 0 to 1."""
    return lambda level: interval_at(level).within(-float(differences), float(differences))


def _of_shares(before: Floats, after: Floats, resampled: IntervalAt, sampling: _Sampling) -> tuple[IntervalAt, str]:
    """The interval for two arms with 0/1 scores, with its name; ``resampled`` is the bootstrap."""
    if sampling.groups is None and sum(discordant_rows(before, after)) >= FEW_DIFFERING:
        return resampled, "paired BCa bootstrap"
    method = "Tango score interval" if sampling.groups is None else "Tango score interval on effective rows"
    return paired_intervals(before, after, seed=sampling.seed, groups=sampling.groups), method


def _permutation(table: ArmsMetric, pairs: Sequence[Pair], sampling: _Sampling) -> float:
    if table.metric == "mean":
        columns = {name: table.scores[:, place] for place, name in enumerate(table.names)}
        differences = np.sum([columns[first] - columns[second] for first, second in pairs], axis=0)
        return sign_flip_test(differences, seed=sampling.seed, draws=sampling.permutations, groups=sampling.groups)
    observed = float(table.swapped(pairs, np.zeros((1, table.rows), dtype=np.int8))[0])
    reached = sum(
        int(np.sum(np.abs(table.swapped(pairs, swaps)) >= abs(observed) - 1e-12)) for swaps in _swaps(table.rows, sampling)
    )
    return (1 + reached) / (1 + sampling.permutations)


def _swaps(rows: int, sampling: _Sampling) -> Iterator[npt.NDArray[np.int8]]:
    index = np.arange(rows) if sampling.groups is None else group_index(sampling.groups)
    generator = np.random.default_rng(sampling.seed)
    step = max(1, _CELLS_AT_ONCE // rows)
    for start in range(0, sampling.permutations, step):
        size = (min(step, sampling.permutations - start), int(index.max()) + 1)
        yield generator.integers(0, 2, size=size, dtype=np.int8)[:, index]


def _corrected(compared: Mapping[str, _Compared | None], same: Mapping[str, str]) -> dict[str, Gain]:
    """The gains, corrected for the number of distinct hypotheses; score and log-loss are different hypotheses."""
    count = len({hypothesis(name, same) for name, one in compared.items() if one is not None})
    gains = {}
    for name, one in compared.items():
        if one is None:
            none = Interval(0.0, 0.0)
            gains[name] = Gain(0.0, none, 1.0, none, 1.0, True, "none: the same arm", "none: the same arm")
            continue
        gains[name] = corrected_gain(one.value, one.p, one.interval_at, count, one.test, one.method)
    return gains


def corrected_gain(value: float, p: float, interval_at: IntervalAt, count: int, test: str, method: str = "") -> Gain:
    """A gain from its uncorrected test and interval, corrected for ``count`` gains that are read together."""
    p_single, ci_single = read_together(p, interval_at)
    p, ci = read_together(p, interval_at, count)
    return Gain(value, ci, p, ci_single, p_single, False, test, method)
