"""Racing candidates over the same rows: drop a loser as soon as the data say so, however often one looks.

Every candidate is scored on the same rows in the same random order. For each ordered pair a gambler bets, row after
row, that the first loses more than the second; no strategy can expect to win where that is not so, and a gambler who
has multiplied the stake by 20 is evidence at the level 1/20, at whichever row one looks (Ville's inequality).
Losses are capped at a bound, so that what is compared is the mean of the capped loss, which is the same scale for
every pair and therefore has a best candidate. Rows that depend on each other make one bet together, on the sum of their
losses: what a group's first row shows would tell a gambler how to win on its others.

Source: betting as in Waudby-Smith and Ramdas (arXiv 2010.09686, sections 4 and 5); averaging e-values over opponents
as in Vovk and Wang (Annals of Statistics 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from cotune.errors import DivergedError
from cotune.evaluate.stats.resampling import Floats

Verdict = Literal["worse", "not told apart"]
STAKES: Floats = np.array([0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.95])
"""Shares of the wealth that are bet, held in parallel: none has to be tuned to how far apart candidates are."""
_TIE = 1e-9
"""Mean losses that differ by no more are equal."""


@dataclass(frozen=True)
class Evidence:
    """What has been won by the gamblers; arrays may have leading axes for races side by side.

    Attributes:
        pairs: log wealth of each stake betting that i is worse than j, shape (..., candidates, candidates, stakes).
        leader: log wealth of each stake betting that i is worse than whoever led before the row, shape
            (..., candidates, stakes).
        totals: sum of losses, as shares of the bound, shape (..., candidates).
        rows: rows seen, shape (..., candidates).
    """

    pairs: Floats
    leader: Floats
    totals: Floats
    rows: npt.NDArray[np.int64]

    @classmethod
    def none(cls, candidates: int, races: tuple[int, ...] = ()) -> Evidence:
        """No evidence yet."""
        stakes = len(STAKES)
        return cls(
            np.zeros((*races, candidates, candidates, stakes)),
            np.zeros((*races, candidates, stakes)),
            np.zeros((*races, candidates)),
            np.zeros((*races, candidates), dtype=np.int64),
        )

    def after(self, losses: Floats, active: npt.NDArray[np.bool_], rows: int = 1, largest: int = 1) -> Evidence:
        """Bet on one more row, or on a group of them at once; the inactive take no part.

        Args:
            losses: of the row, from 0 to 1, or summed over the group's rows, shape (..., candidates).
            active: who takes part, shape (..., candidates).
            rows: how many rows the group has.
            largest: rows of the largest group there is, so that stakes stay below what can be lost and each row weighs alike.
        """
        both, scaled = active[..., :, None] & active[..., None, :], losses / largest
        excess = np.where(both, scaled[..., :, None] - scaled[..., None, :], 0.0)
        opponents = self._opponents(active)
        against_leader = np.take_along_axis(excess, opponents[..., None], axis=-1)
        return Evidence(
            self.pairs + np.log1p(STAKES * excess[..., None]),
            self.leader + np.log1p(STAKES * against_leader),
            self.totals + np.where(active, losses, 0.0),
            self.rows + rows * active,
        )

    def log_pairs(self) -> Floats:
        """Log e-value that i is worse than j, shape (..., candidates, candidates)."""
        return _log_mean(self.pairs)

    def log_not_best(self) -> Floats:
        """Log e-value that i is not the best, shape (..., candidates): half on the leader, half on all the others."""
        candidates = self.totals.shape[-1]
        pairs = np.where(np.eye(candidates, dtype=bool), -np.inf, self.log_pairs())
        others = np.logaddexp.reduce(pairs, axis=-1) - math.log(max(1, candidates - 1))
        return np.asarray(np.logaddexp(others, _log_mean(self.leader)) - math.log(2), dtype=np.float64)

    def _opponents(self, active: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Who each candidate is bet against: the active one with the least loss so far, other than itself."""
        candidates = active.shape[-1]
        standing = np.where(active, self.totals, np.inf)
        rivals = np.where(np.eye(candidates, dtype=bool), np.inf, standing[..., None, :])
        return np.asarray(np.argmin(rivals, axis=-1), dtype=np.int64)


@dataclass(frozen=True)
class Race:
    """A race of candidates over rows, one immutable state of it; :meth:`update` gives the next one.

    The best candidate, the one with the least mean capped loss, is dropped in at most a share ``alpha`` of races, at
    whatever rows one looks and whatever the other candidates do. Rows must come in random order.

    Attributes:
        n_candidates: how many enter.
        alpha: in what share of races the best may be dropped wrongly.
        bound: cap on the loss of a row, in the loss's unit; see :func:`loss_bound`.
        lengths: prompt length of each candidate, in tokens; ties keep the shorter. None: ties keep the earlier.
        dropped: candidates that the test dropped, first dropped first.
        beaten_by: for each of ``dropped``, who led when it was dropped.
        retired: candidates that :meth:`retire` took out without a verdict.
        largest: rows of the largest group, where rows are grouped; see :meth:`update`.
    """

    n_candidates: int
    alpha: float = 0.05
    bound: float = 4.0
    lengths: tuple[int, ...] | None = None
    dropped: tuple[int, ...] = ()
    beaten_by: tuple[int, ...] = ()
    retired: tuple[int, ...] = ()
    largest: int = 1
    evidence: Evidence | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.n_candidates < 1 or not 0 < self.alpha < 1 or not self.bound > 0:
            raise ValueError("a race needs at least one candidate, alpha between 0 and 1, and a positive bound")
        if self.lengths is not None and len(self.lengths) != self.n_candidates:
            raise ValueError(f"{len(self.lengths)} lengths do not fit {self.n_candidates} candidates")
        if self.evidence is None:
            object.__setattr__(self, "evidence", Evidence.none(self.n_candidates))

    @property
    def active(self) -> tuple[int, ...]:
        """Candidates still in the race, in the order of the columns that :meth:`update` expects."""
        out = {*self.dropped, *self.retired}
        return tuple(candidate for candidate in range(self.n_candidates) if candidate not in out)

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each candidate was judged on."""
        return tuple(int(count) for count in self._evidence.rows)

    @property
    def mean_losses(self) -> tuple[float, ...]:
        """Mean capped loss of each candidate on the rows it was judged on; NaN before the first."""
        counts = np.where(self._evidence.rows > 0, self._evidence.rows, np.nan)
        return tuple(float(mean) for mean in self.bound * self._evidence.totals / counts)

    def update(self, losses: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Race:
        """Judge the active candidates on more rows.

        Args:
            losses: shape (rows, active candidates), at least 0, columns in the order of :attr:`active`. How the rows
                are cut into calls does not matter: a candidate dropped at a row takes no part in later ones.
            groups: group id of each row, where rows depend on each other: those that stand side by side are one bet. A group
                must stand in one call, whole groups must come in random order, and none may be larger than :attr:`largest`.

        Returns:
            The race after these rows; the last candidate is never dropped.

        Raises:
            DivergedError: a loss is NaN or infinite.
            ValueError: a loss is negative, a group too large, or the columns or groups do not fit.
        """
        entered = self.active
        table = np.asarray(losses, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(entered):
            raise ValueError(f"losses must have {len(entered)} columns, not shape {table.shape}")
        if not np.all(np.isfinite(table)):
            worst = entered[int(np.argmax(~np.isfinite(table).all(axis=0)))]
            raise DivergedError(f"candidate {worst} has a loss that is NaN or infinite")
        if np.any(table < 0):
            raise ValueError("losses must not be negative")
        shares = np.zeros((len(table), self.n_candidates))
        shares[:, list(entered)] = np.minimum(table, self.bound) / self.bound
        evidence, dropped, beaten_by = self._evidence, list(self.dropped), list(self.beaten_by)
        active = np.isin(np.arange(self.n_candidates), entered)
        for summed, rows in self._units(shares, groups):
            evidence = evidence.after(summed, active, rows, self.largest)
            if active.sum() < 2:
                continue
            losers = active & (evidence.log_not_best() >= -math.log(self.alpha))
            leader = int(np.argmin(np.where(active, evidence.totals, np.inf)))
            losers[leader] &= losers.sum() < active.sum()
            dropped += [int(loser) for loser in np.flatnonzero(losers)]
            beaten_by += [leader] * int(losers.sum())
            active = active & ~losers
        return replace(self, evidence=evidence, dropped=tuple(dropped), beaten_by=tuple(beaten_by))

    def retire(self, candidates: Sequence[int]) -> Race:
        """Take candidates out without a verdict, as a round of successive halving does."""
        staying = [candidate for candidate in self.active if candidate not in set(candidates)]
        if not staying:
            raise ValueError("a race cannot lose its last candidate")
        leaving = tuple(candidate for candidate in candidates if candidate in self.active)
        return replace(self, retired=self.retired + leaving)

    def verdict(self, candidate: int, other: int) -> Verdict:
        """Whether a candidate is worse than another one, by the rows that both were judged on.

        Only a dropped candidate is called worse: than the one that led when it was dropped, and than every other one
        that it lost to by evidence at the level ``alpha``. So the best candidate is called worse than anyone in at most
        ``alpha`` of races.
        """
        if candidate not in self.dropped or candidate == other:
            return "not told apart"
        if self.beaten_by[self.dropped.index(candidate)] == other:
            return "worse"
        lost = self._evidence.log_pairs()[candidate, other] >= -math.log(self.alpha)
        return "worse" if lost else "not told apart"

    def ranking(self) -> tuple[int, ...]:
        """Active candidates by mean capped loss, best first; of equal ones the shorter prompt, then the earlier candidate."""
        means, left, ranked = self.mean_losses, list(self.active), list[int]()
        lengths = self.lengths or (0,) * self.n_candidates
        while left:
            least = min(means[candidate] for candidate in left)
            tied = [candidate for candidate in left if not means[candidate] > least + _TIE]
            first = min(tied or left, key=lambda candidate: (lengths[candidate], candidate))
            ranked.append(first)
            left.remove(first)
        return tuple(ranked)

    def _units(self, shares: Floats, groups: npt.ArrayLike | None) -> list[tuple[Floats, int]]:
        """What is bet on at once, with its number of rows."""
        if groups is None:
            return [(row, 1) for row in shares]
        ids = np.asarray(groups)
        if ids.shape != (len(shares),):
            raise ValueError(f"groups of shape {ids.shape} do not fit {len(shares)} rows")
        parts = np.split(shares, np.flatnonzero(ids[1:] != ids[:-1]) + 1) if len(ids) else []
        if any(len(part) > self.largest for part in parts):
            raise ValueError(f"a group has more than the {self.largest} rows that the largest was said to have")
        return [(part.sum(axis=0), len(part)) for part in parts]

    @property
    def _evidence(self) -> Evidence:
        assert self.evidence is not None
        return self.evidence


@dataclass(frozen=True, slots=True)
class Round:
    """One round of successive halving.

    Attributes:
        keep: how many candidates go on after the round.
        rows: up to which row (counted from the first) the round's candidates are judged.
    """

    keep: int
    rows: int


def successive_halving_schedule(
    n_candidates: int, n_rows: int, *, final: int = 2, factor: float = 2.0, first_rows: int = 16
) -> list[Round]:
    """Plan rounds of fewer and fewer candidates that cost about the same, of which the last ends on all rows.

    The thinning of the field and the spending are those of Karnin and others (ICML 2013); they take rows as endless. Here the
    rows of a round are reckoned from the last backwards, so that nobody meets all of them but those who are left then.

    Args:
        n_candidates: how many enter, at least 1.
        n_rows: rows there are; the last round ends there.
        final: how many meet all rows.
        factor: by how much each round thins the field; by more where ``n_rows`` are too few for so many rounds.
        first_rows: least rows of the first round; half as many are the least that a later round adds.

    Raises:
        ValueError: there are no candidates or rows, nobody to keep, or the factor is not above 1.
    """
    if n_candidates < 1 or n_rows < 1 or final < 1 or factor <= 1:
        raise ValueError("a schedule needs candidates, rows, someone to keep, and a factor above 1")
    last = min(final, n_candidates)
    thinnings = math.ceil(math.log(n_candidates / last) / math.log(factor) - 1e-9)
    while True:
        thinned = (last / n_candidates) ** (np.arange(thinnings + 1) / max(1, thinnings))
        fields = [max(last, round(n_candidates * float(share))) for share in thinned]
        ends = _ends(fields, n_rows, first_rows)
        if not thinnings or ends[1] - ends[0] >= first_rows / 2:
            break
        thinnings -= 1
    rows = [max(1, math.floor(end + 1e-9)) for end in ends[:-1]] + [n_rows]
    return [Round(keep, end) for keep, end in zip((*fields[1:], last), rows, strict=True)]


def _ends(fields: Sequence[int], n_rows: int, first_rows: int) -> Floats:
    """Up to which row each round goes where all cost alike; where that leaves the first too few, the others do."""
    shares = 1 / np.array(fields)
    ends = n_rows * np.cumsum(shares) / shares.sum()
    if len(fields) > 1 and ends[0] < first_rows:
        ends[1:] = first_rows + (n_rows - first_rows) * np.cumsum(shares[1:]) / shares[1:].sum()
        ends[0] = first_rows
    return np.asarray(ends, dtype=np.float64)


def schedule_cost(n_candidates: int, schedule: Sequence[Round]) -> int:
    """How many evaluations (candidate on row) a schedule spends."""
    cost, field_size, seen = 0, n_candidates, 0
    for step in schedule:
        cost += field_size * (step.rows - seen)
        field_size, seen = step.keep, step.rows
    return cost


def loss_bound(n_labels: int) -> float:
    """A cap for the log-loss of a classification row, in nats: that of a guess among all labels, half as much again.

    A row that is lost more clearly than a guess says little more than that it is lost.
    """
    return 1.5 * math.log(max(2, n_labels))


def _log_mean(log_wealth: Floats) -> Floats:
    most = log_wealth.max(axis=-1)
    return np.asarray(most + np.log(np.mean(np.exp(log_wealth - most[..., None]), axis=-1)), dtype=np.float64)
