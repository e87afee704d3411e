"""Racing with a few planned looks: the simple alternative to betting."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.errors import DivergedError
from cotune.evaluate.racing import Verdict
from cotune.evaluate.resampling import Floats


@lru_cache(maxsize=64)
def pocock_level(looks: int, alpha: float) -> float:
    """One-sided level for each of several equally spaced looks that makes ``alpha`` of all of them together.

    Source: Pocock (Biometrika 1977), by the recursion of Armitage, McPherson and Rowe (JRSS A 1969).
    """
    if looks < 1 or not 0 < alpha < 1:
        raise ValueError(f"no level for {looks} looks at alpha={alpha}")
    low, high = float(-special.ndtri(alpha)), float(-special.ndtri(alpha / looks))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossed(middle, looks) > alpha else (low, middle)
    return float(special.ndtr(-high))


def _crossed(critical: float, looks: int) -> float:
    """How often a walk of standard normal steps passes ``critical`` times the root of the step, at any look."""
    nodes, weights = np.polynomial.legendre.leggauss(160)

    def grid(look: int) -> tuple[Floats, Floats]:
        low, high = -8.0 * look**0.5, critical * look**0.5
        return low + (nodes + 1) * (high - low) / 2, weights * (high - low) / 2

    places, widths = grid(1)
    density = np.exp(-(places**2) / 2) / np.sqrt(2 * np.pi)
    for look in range(2, looks + 1):
        further, next_widths = grid(look)
        steps = np.exp(-((further[:, None] - places[None, :]) ** 2) / 2) / np.sqrt(2 * np.pi)
        places, density, widths = further, steps @ (density * widths), next_widths
    return float(1 - np.sum(density * widths))


@dataclass(frozen=True)
class PocockRace:
    """A race with planned, equally spaced looks: at each, paired one-sided t-tests of every pair still in it.

    Simpler than :class:`cotune.evaluate.racing.Race`, and it needs no bound on the loss; but looks must be planned, and
    it leans on means of ``look_every`` rows being nearly normal. The best candidate is dropped in about ``alpha`` of
    races at most.

    Attributes:
        n_candidates: how many enter.
        look_every: rows between looks, at least 20.
        looks: how many looks are planned; later rows change nothing.
        alpha: in what share of races the best may be dropped wrongly.
        lengths: prompt length of each candidate; ties keep the shorter.
        dropped: candidates dropped, first dropped first.
        losses: what was seen, shape (rows, candidates), NaN where a candidate was out.
    """

    n_candidates: int
    look_every: int
    looks: int
    alpha: float = 0.05
    lengths: tuple[int, ...] | None = None
    dropped: tuple[int, ...] = ()
    losses: Floats | None = field(default=None, repr=False, compare=False)
    worse: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if self.n_candidates < 1 or self.look_every < 20 or self.looks < 1 or not 0 < self.alpha < 1:
            raise ValueError("a race needs a candidate, a look, at least 20 rows to it, and alpha between 0 and 1")

    @property
    def active(self) -> tuple[int, ...]:
        """Candidates still in the race, in the order of the columns that :meth:`update` expects."""
        return tuple(candidate for candidate in range(self.n_candidates) if candidate not in self.dropped)

    def update(self, losses: npt.ArrayLike) -> PocockRace:
        """Judge the active candidates on more rows; shape (rows, active candidates). Give at most one look's rows.

        Raises:
            DivergedError: a loss is NaN or infinite.
            ValueError: the columns do not fit, or the rows reach past a look.
        """
        table = np.asarray(losses, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(self.active):
            raise ValueError(f"losses must have {len(self.active)} columns, not shape {table.shape}")
        if not np.all(np.isfinite(table)):
            raise DivergedError("a loss is NaN or infinite")
        before = np.zeros((0, self.n_candidates)) if self.losses is None else self.losses
        if len(before) % self.look_every + len(table) > self.look_every:
            raise ValueError(f"rows reach past the look at every {self.look_every} rows")
        added = np.full((len(table), self.n_candidates), np.nan)
        added[:, list(self.active)] = table
        seen = np.concatenate([before, added])
        after = replace(self, losses=seen)
        if not len(table) or len(seen) % self.look_every or len(seen) // self.look_every > self.looks:
            return after
        return after._looked(seen)

    def verdict(self, candidate: int, other: int) -> Verdict:
        """Whether a look found a candidate worse than another one."""
        return "worse" if (candidate, other) in self.worse else "not told apart"

    def ranking(self) -> tuple[int, ...]:
        """Active candidates by mean loss, best first; exact ties keep the shorter prompt first."""
        lengths = self.lengths or (0,) * self.n_candidates
        means = np.zeros(self.n_candidates) if self.losses is None else self.losses.mean(axis=0).round(9)
        return tuple(sorted(self.active, key=lambda place: (means[place], lengths[place], place)))

    def _looked(self, seen: Floats) -> PocockRace:
        rows, staying = len(seen), list(self.active)
        if len(staying) < 2:
            return self
        level = pocock_level(self.looks, self.alpha / (self.n_candidates - 1))
        critical = float(special.stdtrit(rows - 1, 1 - level))
        table = seen[:, staying]
        excess = table.mean(axis=0)[:, None] - table.mean(axis=0)[None, :]
        covariance = np.atleast_2d(np.cov(table, rowvar=False))
        spread = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
        beaten = excess > critical * np.sqrt(np.maximum(spread, 0) / rows) + 1e-12
        pairs = {(staying[one], staying[two]) for one, two in zip(*np.nonzero(beaten), strict=True)}
        losers = tuple(candidate for place, candidate in enumerate(staying) if beaten[place].any())
        return replace(self, dropped=self.dropped + losers, worse=self.worse | pairs)
