"""Races of candidates over the same rows; losers may be dropped after any row.

Every candidate is scored on the same rows in the same random order. For each ordered pair a gambler bets, row by row, that the
first candidate has the larger loss. If it has not, no strategy wins on average. A gambler who has multiplied the stake by 20 is
therefore evidence at the level 1/20, at any row (Ville's inequality). Losses are capped at a bound, and the means of capped
losses are compared; all pairs thus share a scale, and there is a best candidate. Rows of a group make one bet on the sum of
their losses, because a group's first row would tell a gambler how to win on the others.

Source: betting as in Waudby-Smith and Ramdas (arXiv 2010.09686, sections 4 and 5); averaging e-values over opponents
as in Vovk and Wang (Annals of Statistics 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cotune.errors import DivergedError
from cotune.evaluate.stats.resampling import Floats

STAKES: Floats = np.array([0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.95])
"""Shares of the wealth that are bet in parallel, so that none has to be tuned to the distance between candidates."""
_TIE = 1e-9
"""Difference of mean losses up to which they are equal."""


@dataclass(frozen=True)
class Evidence:
    """Log e-values of the pairwise tests (the gamblers' wealth). Arrays may have leading axes for several races.

    Attributes:
        pairs: log wealth, for each stake, of the bet that i is worse than j, shape (..., candidates, candidates, stakes).
        leader: log wealth, for each stake, of the bet that i is worse than the current leader, shape (..., candidates,
            stakes).
        totals: sums of losses as shares of the bound, shape (..., candidates).
        rows: number of rows, shape (..., candidates).
    """

    pairs: Floats
    leader: Floats
    totals: Floats
    rows: npt.NDArray[np.int64]

    @classmethod
    def none(cls, candidates: int, races: tuple[int, ...] = ()) -> Evidence:
        stakes = len(STAKES)
        return cls(
            np.zeros((*races, candidates, candidates, stakes)),
            np.zeros((*races, candidates, stakes)),
            np.zeros((*races, candidates)),
            np.zeros((*races, candidates), dtype=np.int64),
        )

    def after(self, losses: Floats, active: npt.NDArray[np.bool_], rows: int = 1, largest: int = 1) -> Evidence:
        """Bet on one more row, or on a group of rows at once; inactive candidates take no part.

        Args:
            losses: losses of the row, from 0 to 1, or sums over the group's rows, shape (..., candidates).
            active: which candidates take part, shape (..., candidates).
            rows: number of rows of the group.
            largest: number of rows of the largest group; it scales the losses so that no stake can be lost whole and all rows
                have the same weight.
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
        """Log e-value that i is not the best, shape (..., candidates): half against the leader, half against all others."""
        candidates = self.totals.shape[-1]
        pairs = np.where(np.eye(candidates, dtype=bool), -np.inf, self.log_pairs())
        others = np.logaddexp.reduce(pairs, axis=-1) - math.log(max(1, candidates - 1))
        return np.asarray(np.logaddexp(others, _log_mean(self.leader)) - math.log(2), dtype=np.float64)

    def _opponents(self, active: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Opponent of each candidate: the other active candidate with the least loss so far."""
        candidates = active.shape[-1]
        standing = np.where(active, self.totals, np.inf)
        rivals = np.where(np.eye(candidates, dtype=bool), np.inf, standing[..., None, :])
        return np.asarray(np.argmin(rivals, axis=-1), dtype=np.int64)


@dataclass(frozen=True)
class Race:
    """Immutable state of a race of candidates over rows; :meth:`update` returns the next state.

    The best candidate, which has the least mean capped loss, is dropped in at most a share ``alpha`` of races, whichever rows
    one looks at and whatever the other candidates do. Rows must be in random order.

    Attributes:
        alpha: share of races in which the best candidate may be dropped.
        bound: cap on the loss of a row, in the loss's unit; see :func:`loss_bound`.
        lengths: prompt length of each candidate; ties keep the shorter one. If None, ties keep the earlier one.
        dropped: candidates that the test dropped, in order.
        retired: candidates that :meth:`retire` removed without a verdict.
        largest: number of rows of the largest group if rows are grouped; see :meth:`update`.
    """

    n_candidates: int
    alpha: float = 0.05
    bound: float = 4.0
    lengths: tuple[int, ...] | None = None
    dropped: tuple[int, ...] = ()
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
        return tuple(int(count) for count in self._evidence.rows)

    @property
    def mean_losses(self) -> tuple[float, ...]:
        """Mean capped loss of each candidate on the rows it was judged on; NaN before the first."""
        counts = np.where(self._evidence.rows > 0, self._evidence.rows, np.nan)
        return tuple(float(mean) for mean in self.bound * self._evidence.totals / counts)

    def update(self, losses: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Race:
        """Judge the active candidates on more rows.

        Args:
            losses: losses, at least 0, shape (rows, active candidates), columns in the order of :attr:`active`. The split of
                rows into calls does not matter: a candidate that is dropped at a row takes no part in later rows.
            groups: group id of each row; adjacent rows of one group are one bet. A group must be within one call, whole groups
                must be in random order, and none may be larger than :attr:`largest`.

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
        evidence, dropped = self._evidence, list(self.dropped)
        active = np.isin(np.arange(self.n_candidates), entered)
        for summed, rows in self._units(shares, groups):
            evidence = evidence.after(summed, active, rows, self.largest)
            if active.sum() < 2:
                continue
            losers = active & (evidence.log_not_best() >= -math.log(self.alpha))
            leader = int(np.argmin(np.where(active, evidence.totals, np.inf)))
            losers[leader] &= losers.sum() < active.sum()
            dropped += [int(loser) for loser in np.flatnonzero(losers)]
            active = active & ~losers
        return replace(self, evidence=evidence, dropped=tuple(dropped))

    def retire(self, candidates: Sequence[int]) -> Race:
        """Remove candidates without a verdict, as in a round of successive halving."""
        staying = [candidate for candidate in self.active if candidate not in set(candidates)]
        if not staying:
            raise ValueError("a race cannot lose its last candidate")
        leaving = tuple(candidate for candidate in candidates if candidate in self.active)
        return replace(self, retired=self.retired + leaving)

    def ranking(self) -> tuple[int, ...]:
        """Active candidates by mean capped loss, best first; ties keep the shorter prompt, then the earlier candidate."""
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
        """Losses of each bet, which is a row or a group, with its number of rows."""
        if groups is None:
            return [(row, 1) for row in shares]
        ids = np.asarray(groups)
        if ids.shape != (len(shares),):
            raise ValueError(f"groups of shape {ids.shape} do not fit {len(shares)} rows")
        parts = np.split(shares, np.flatnonzero(ids[1:] != ids[:-1]) + 1) if len(ids) else []
        if any(len(part) > self.largest for part in parts):
            raise ValueError(f"a group has more than {self.largest} rows, the given size of the largest group")
        return [(part.sum(axis=0), len(part)) for part in parts]

    @property
    def _evidence(self) -> Evidence:
        assert self.evidence is not None
        return self.evidence


@dataclass(frozen=True, slots=True)
class Round:
    """One round of successive halving.

    Attributes:
        keep: number of candidates that continue after the round.
        rows: number of rows that the round's candidates have been judged on at its end.
    """

    keep: int
    rows: int


def successive_halving_schedule(n_candidates: int, n_rows: int, *, final: int = 2, first_rows: int = 16) -> list[Round]:
    """Plan rounds of equal cost with fewer and fewer candidates; the last round ends on all rows.

    The number of candidates and the cost of each round follow Karnin et al. (ICML 2013), who assume unlimited rows. Here rows
    are limited and are planned backwards from the last round, so that only its candidates see all rows. Each round halves the
    candidates, or reduces them further if ``n_rows`` is too small for the number of rounds.

    Args:
        n_candidates: number of candidates, at least 1.
        n_rows: number of all rows.
        final: number of candidates that see all rows.
        first_rows: minimum number of rows of the first round; a later round adds at least half as many.

    Raises:
        ValueError: if there are no candidates, rows or finalists.
    """
    if n_candidates < 1 or n_rows < 1 or final < 1:
        raise ValueError("a schedule needs candidates, rows and at least one finalist")
    last = min(final, n_candidates)
    thinnings = math.ceil(math.log2(n_candidates / last) - 1e-9)
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
    """Last row of each round at equal cost of all rounds, or of all but the first if it would have too few rows."""
    shares = 1 / np.array(fields)
    ends = n_rows * np.cumsum(shares) / shares.sum()
    if len(fields) > 1 and ends[0] < first_rows:
        ends[1:] = first_rows + (n_rows - first_rows) * np.cumsum(shares[1:]) / shares[1:].sum()
        ends[0] = first_rows
    return np.asarray(ends, dtype=np.float64)


def schedule_cost(n_candidates: int, schedule: Sequence[Round]) -> int:
    """Number of evaluations (candidate on row) of a schedule."""
    cost, field_size, seen = 0, n_candidates, 0
    for step in schedule:
        cost += field_size * (step.rows - seen)
        field_size, seen = step.keep, step.rows
    return cost


def loss_bound(n_labels: int) -> float:
    """Cap on the log-loss of a classification row, in nats: 1.5 times that of a uniform guess among the labels.

    A loss far above that of a guess says little more than that the row is wrong.
    """
    return 1.5 * math.log(max(2, n_labels))


def _log_mean(log_wealth: Floats) -> Floats:
    most = log_wealth.max(axis=-1)
    return np.asarray(most + np.log(np.mean(np.exp(log_wealth - most[..., None]), axis=-1)), dtype=np.float64)
