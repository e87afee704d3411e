"""TF-IDF beside probes: single words may say what a small model's states do not, as with intents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.fits import PromptFit
from cotune.evaluate.stats.cross_fitted import standard_error
from cotune.probe.cross_fitting import best_temperature, tempered
from cotune.probe.fields import row_correct, row_losses
from cotune.probe.term_fits import TermFits
from cotune.probe.terms import MOST_CHARACTERS, TermWeights
from cotune.task.example import Example
from cotune.task.split import fold_units

Floats = NDArray[np.float64]

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Factors of TF-IDF's logits to choose from."""
ERRORS = 2.0
"""Standard errors by which the best frozen probe must be better with TF-IDF for a run to use it. CLINC150 is better by 3.8 to
5.3, TREC-6 by 0.8 to 1.4, SMS spam not at all; on unseen rows only the first gains. At one error a run of TREC-6 lost 2 points
(docs/probe-measurements.md).
"""
MOST_ROWS, MOST_READ = 3000, 1_000_000
"""Maximum of rows that TF-IDF learns from, and of the characters that are read of them, so that its fits take seconds."""
_LEAST_DECIDED = 200
"""Number of rows to which TF-IDF is not cut if its use was decided before, although its fits take too long."""
COST_SHARE = 0.05
"""Share of the rest of a time budget that the fits may take."""
_SECONDS = (4e-7, 3e-10, 1e-8)
"""Seconds per square of the rows on a slow core: for their products, per row for the principal axes, per label for the fits."""


@dataclass(frozen=True, eq=False)
class Mix:
    """A probe's log-probabilities with a share of TF-IDF's.

    Attributes:
        share: factor of TF-IDF's logits; 0 leaves them out.
        temperature: divisor of the sum.
        sizes: number of values of each of several fields; empty for labels.
    """

    share: float
    temperature: float
    sizes: tuple[int, ...] = ()

    def of(self, log_probs: Floats, terms: Floats | None) -> Floats:
        """``[rows, labels]`` log-probabilities of the sum."""
        return tempered(log_probs if terms is None else log_probs + self.share * terms, self.temperature, self.sizes)


@dataclass(frozen=True, eq=False)
class Mixed:
    """A probe with the best share of TF-IDF, on rows that neither has seen.

    Attributes:
        mix: the share and the temperature.
        rows: the rows.
        log_probs: ``[rows, labels]``, after temperature.
        losses: ``[rows]`` log-loss in nats.
        correct: ``[rows]`` 1 if the likeliest label was right, otherwise 0.
        without: ``[rows]`` log-loss of the probe alone.
        by_share: see :func:`losses_by_share`.
    """

    mix: Mix
    rows: tuple[Example, ...]
    log_probs: Floats
    losses: Floats
    correct: Floats
    without: Floats
    by_share: Floats

    @property
    def pays(self) -> bool:
        """Whether TF-IDF lowers the loss by more than chance."""
        gain = self.without - self.losses
        return bool(gain.mean() > ERRORS * standard_error(gain, fold_units(self.rows)))


class Tfidf:
    """TF-IDF with logistic regression on a task's labelled rows.

    Args:
        choosing: gives the rows' right labels, or the right values of their fields.
        seed: seed of the folds.
    """

    def __init__(self, choosing: LabelAnswering, rows: Sequence[Example], seed: int) -> None:
        self._choosing, self._seed, self._rows = choosing, seed, {row.id: place for place, row in enumerate(rows)}
        self._groups = fold_units(rows)
        texts, sizes = [row.text for row in rows], choosing.sizes
        self._fits = TermFits(texts, choosing.targets(rows), len(choosing.labels), sizes)
        self._weights: dict[bytes, TermWeights] = {}
        self._table: Floats | None = None

    @property
    def empty(self) -> bool:
        """Whether no row has a word."""
        return self._fits.empty

    def weights(self, rows: Sequence[Example]) -> TermWeights:
        """The classifier that learns from some rows; those that are not among the rows given at first are left out."""
        chosen = np.zeros(len(self._rows), dtype=bool)
        chosen[[self._rows[row.id] for row in rows if row.id in self._rows]] = True
        key = chosen.tobytes()
        if key not in self._weights:
            self._weights[key] = self._fits.fit(chosen, self._choosing.task.input_fields)
        return self._weights[key]

    def cross_fitted(self, fit: PromptFit) -> Mixed | None:
        """A frozen probe with TF-IDF, both cross-fitted; None if TF-IDF cannot be."""
        if self._table is None:
            self._table = self._fits.cross_fitted(groups=self._groups, seed=self._seed)
        places = [place for place, row in enumerate(fit.rows) if row.id in self._rows]
        if self._table is None or len(places) < 2:
            return None
        rows = tuple(fit.rows[place] for place in places)
        return self.mixed(fit.found.best.log_probs[places], self._table[[self._rows[row.id] for row in rows]], rows)

    def mixed(self, log_probs: Floats, terms: Floats, rows: Sequence[Example]) -> Mixed:
        """A probe with the best share, from ``[rows, labels]`` of both on rows that neither has seen."""
        truth, sizes = self._choosing.targets(rows), self._choosing.sizes
        by_share = losses_by_share(log_probs, terms, truth, sizes)
        mix = best_mix(log_probs, terms, truth, by_share, sizes)
        mixed, alone = mix.of(log_probs, terms), tempered(log_probs, best_temperature(log_probs, truth, sizes), sizes)
        correct = row_correct(mixed, truth, sizes)
        return Mixed(mix, tuple(rows), mixed, row_losses(mixed, truth), correct, row_losses(alone, truth), by_share)


def losses_by_share(log_probs: Floats, terms: Floats, truth: NDArray[np.int64], sizes: Sequence[int] = ()) -> Floats:
    """Mean log-loss for each of :data:`SHARES`, each at its best temperature."""

    def loss(mixed: Floats) -> float:
        return float(row_losses(tempered(mixed, best_temperature(mixed, truth, sizes), sizes), truth).mean())

    return np.array([loss(log_probs + share * terms) for share in SHARES])


def best_mix(log_probs: Floats, terms: Floats, truth: NDArray[np.int64], losses: Floats, sizes: tuple[int, ...] = ()) -> Mix:
    """The share with the lowest of ``losses``, which may come from more rows than these, at the best temperature on these."""
    share = SHARES[int(losses.argmin())]
    return Mix(share, best_temperature(log_probs + share * terms, truth, sizes), sizes)


def try_tfidf(
    context: RunContext,
    rows: Sequence[Example],
    prompt_id: str,
    measure: str,
    judge: Callable[[Tfidf], Mixed | None],
    *,
    decided: bool = False,
) -> tuple[Tfidf, Mixed] | None:
    """TF-IDF if a run uses it, because the best frozen probe is better with it; a ``tfidf`` step.

    Args:
        rows: all rows to learn from, names of labels included, in random order; of very many the first ones are used.
        prompt_id: prompt of the best frozen probe.
        measure: ``cross-fitted`` or ``held-out``, how ``judge`` measures.
        judge: gives this probe with TF-IDF; None if TF-IDF cannot be fitted.
        decided: whether it is used in any case, because it was better on fewer rows; few held-out rows might not show that. It
            learns from as many rows as there is time for then.
    """
    late = False
    if context.spending.budget.kind == "time":
        room = COST_SHARE * context.spending.left()
        while decided and len(rows) > _LEAST_DECIDED and _seconds(context, rows) > room:
            rows = rows[: len(rows) * 3 // 4]
        late = _seconds(context, rows) > room
    tfidf = None if late else Tfidf(context.choosing, _fitting(rows), context.seed)
    found = None if tfidf is None or tfidf.empty else judge(tfidf)

    def effect() -> dict[str, Any]:
        if late:
            return {"used": False, "text": "TF-IDF beside the probe is not tried, as its fits would take too long"}
        if found is None:
            return {"used": False, "text": "TF-IDF beside the probe is not tried, because there are too few rows or words"}
        log_loss, without = (round(float(losses.mean()), 6) for losses in (found.losses, found.without))
        used = found.pays or decided
        verb = "is" if used else "is not"
        compared = compared_losses(measure, log_loss, without)
        if not used and not found.mix.share:
            compared = f"no share of it lowers the {measure} log-loss of {without:.3f}"
        return {
            "used": used,
            "rows": len(found.rows),
            "share": found.mix.share,
            "log_loss": log_loss,
            "without": without,
            "text": f"TF-IDF of the text {verb} added to the probe: {compared}",
        }

    used = context.journal.step("tfidf", [prompt_id, [row.id for row in rows]], effect)["used"]
    return (tfidf, found) if used and tfidf is not None and found is not None else None


def compared_losses(measure: str, having: float, without: float) -> str:
    """The log-loss with and without a part of the read-out, in words; ``measure`` is ``cross-fitted`` or ``held-out``."""
    return f"{measure} log-loss {having:.3f} with, {without:.3f} without"


def _fitting(rows: Sequence[Example]) -> Sequence[Example]:
    """The first rows that TF-IDF can learn from."""
    ends = np.cumsum([min(len(row.text), MOST_CHARACTERS) for row in rows[:MOST_ROWS]])
    return rows[: max(1, int((ends <= MOST_READ).sum()))]


def _seconds(context: RunContext, rows: Sequence[Example]) -> float:
    """Expected seconds of all fits."""
    count, (products, axes, fits) = len(_fitting(rows)), _SECONDS
    return count**2 * (products + axes * count + fits * len(context.choosing.labels))
