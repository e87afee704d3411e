"""The winner's curse: how much of the best candidate's dev score is luck."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.clusters import group_sums
from cotune.evaluate.stats.resampling import Floats, group_index, resampling_weights


def winners_curse(
    scores: npt.ArrayLike, *, seed: int, draws: int = 2000, groups: npt.ArrayLike | None = None, winner: int | None = None
) -> float:
    """The winner's dev score, corrected for its selection on the same rows by bootstrapping the whole selection.

    Rows are resampled for all candidates together, and the best candidate of each resample is chosen. The optimism is how much
    better it scores there than its average. Candidates are first shrunk towards each other by the share of their spread that
    chance explains; otherwise the luck of equal candidates would count as merit and the optimism would be too small. If a
    candidate was not scored on a row, the missing score is the row's mean over finalists plus the candidate's mean difference
    from them, so early losers stay in the selection. The rounds of a race are not replayed: if candidates are close and most
    were dropped early, up to a third of the optimism may remain.

    Args:
        scores: scores, higher is better, shape (candidates, rows); NaN if a candidate was not scored on a row. At least one
            candidate must be scored on all rows.
        groups: group id of each row; if given, whole groups are drawn.
        winner: index of the chosen candidate; None takes the best mean among those scored on all rows.

    Returns:
        Expected score of the winner on new rows; NaN if all rows are in one group, because luck cannot be estimated then.

    Raises:
        ValueError: no candidate was scored on all rows, a candidate was scored on no row, or the winner was not scored on all.

    Source: optimism bootstrap (Efron and Tibshirani 1993, chapter 17) around centres shrunk as by James and
    Stein (Efron and Morris, JASA 1973).
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"scores must be of shape (candidates, rows), not {table.shape}")
    scored: npt.NDArray[np.bool_] = np.asarray(np.isfinite(table))
    finalists: npt.NDArray[np.bool_] = np.all(scored, axis=1)
    if not finalists.any() or not scored.any(axis=1).all():
        raise ValueError("the winner's curse needs a candidate scored on all rows, and none that was scored on no row")
    means = np.where(finalists, np.where(scored, table, 0.0).mean(axis=1), -np.inf)
    chosen = int(np.argmax(means)) if winner is None else winner
    if not finalists[chosen]:
        raise ValueError(f"the winner {chosen} was not scored on all rows")
    dev = float(means[chosen])
    candidates, rows = table.shape
    if candidates == 1 or rows < 2:
        return dev
    units = rows if groups is None else len(np.unique(group_index(groups)))
    if units < 2:
        return math.nan
    filled = _filled(table, scored, finalists)
    centres = _shrunk(filled, scored.sum(axis=1), groups)
    noise = filled - filled.mean(axis=1, keepdims=True)
    luck, total = 0.0, 0
    # A resample of few units scatters less than a new sample.
    noise *= np.sqrt(units / (units - 1))
    for weights in resampling_weights(rows, draws, seed, groups):
        drawn = (weights @ noise.T) / weights.sum(axis=1, keepdims=True)
        # A mean over few rows varies more than the mean that includes filled rows.
        drawn *= np.sqrt(rows / scored.sum(axis=1))
        best = np.argmax(centres + drawn, axis=1)
        luck += float(np.sum(drawn[np.arange(len(best)), best]))
        total += len(best)
    return dev - max(0.0, luck / total)


def _filled(table: Floats, scored: npt.NDArray[np.bool_], finalists: npt.NDArray[np.bool_]) -> Floats:
    """Fill missing scores with the finalists' mean on the row plus the candidate's mean difference from the finalists."""
    by_row = table[finalists].mean(axis=0)
    shift = (np.where(scored, table - by_row, 0.0).sum(axis=1) / scored.sum(axis=1))[:, None]
    return np.asarray(np.where(scored, table, by_row + shift), dtype=np.float64)


def _shrunk(filled: Floats, counts: npt.NDArray[np.int64], groups: npt.ArrayLike | None) -> Floats:
    """Means of the candidates, shrunk by the share of their spread that chance explains, by rows or by groups."""
    means = filled.mean(axis=1)
    relative = filled - filled.mean(axis=0)
    by_unit = relative - relative.mean(axis=1, keepdims=True)
    by_unit = by_unit if groups is None else group_sums(by_unit, groups)
    units, rows = by_unit.shape[1], filled.shape[1]
    chance = float(np.mean(units / (units - 1) * np.sum(by_unit**2, axis=1) / rows / counts))
    spread = float(means.var(ddof=1))
    merit = max(0.0, 1 - chance / spread) if spread > 0 else 0.0
    return np.asarray(means.mean() + merit * (means - means.mean()), dtype=np.float64)
