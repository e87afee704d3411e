"""Chains beside probes of words: which tags follow each other, learnt from cross-fitted predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answering.fields import FieldAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.fits import PromptFit
from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.scoring import Evaluation
from cotune.evaluate.stats.cross_fitted import standard_error
from cotune.evaluate.stats.resampling import without_each
from cotune.probe.chain_fits import fit_chain, fit_seconds
from cotune.probe.folds import fold_numbers
from cotune.task.example import Example
from cotune.task.metrics.metric import Metric
from cotune.task.split import count_units, fold_units
from cotune.task.values.chain import Chain
from cotune.task.values.tags import Tags
from cotune.task.words import words_of

Floats = NDArray[np.float64]

FOLDS = 3
"""Folds of chains, which have few numbers to learn; each fit takes about a second."""
COST_SHARE = 0.1
"""Share of the rest of a time budget that the fits may take: with 64 to 500 rows chains gain as much as tuning."""


class Chains:
    """Chains that learn from what a prompt's cross-fitted probe says of its rows.

    Args:
        choosing: tells the rows' right tags.
        fit: the best frozen probe.
        seed: seed of the folds.
    """

    def __init__(self, choosing: FieldAnswering, tags: Tags, fit: PromptFit, seed: int) -> None:
        self._choosing, self._parts, self._rows = choosing, len(tags.copied), {row.id: i for i, row in enumerate(fit.rows)}
        texts = [row.text for row in fit.rows]
        self._tags = [tags.tags_of(row.output, row.text) for row in fit.rows]
        tables = tags.tables(fit.found.log_probs, texts)
        self._tables = [table[: len(own)] for table, own in zip(tables, self._tags, strict=True)]
        groups = fold_units(fit.rows)
        units = count_units(fit.rows)
        strata = np.zeros(len(fit.rows), dtype=np.int64)
        self._folds = fold_numbers(strata, min(FOLDS, units), groups=groups, seed=seed)
        self._known: dict[bytes, Chain] = {}

    def of(self, rows: Sequence[Example]) -> Chain:
        """The chain that learns from some rows; those that the probe was not fitted to are left out."""
        chosen = np.zeros(len(self._rows), dtype=bool)
        chosen[[self._rows[row.id] for row in rows if row.id in self._rows]] = True
        return self._fitted(chosen)

    def answers(self, log_probs: Floats, rows: Sequence[Example]) -> tuple[str, ...]:
        """Answers to rows, each by a chain that has not learnt from the row; ``log_probs`` are ``[states, values]``."""
        fold_of = np.array([self._folds[self._rows[row.id]] if row.id in self._rows else -1 for row in rows])
        found = [""] * len(rows)
        for fold in np.unique(fold_of):
            places = np.flatnonzero(fold_of == fold)
            states, chain = self._choosing.states_of(rows, places), self._fitted(self._folds != fold)
            answers = self._choosing.answers(log_probs[states], [rows[place] for place in places.tolist()], chain)
            for place, answer in zip(places.tolist(), answers, strict=True):
                found[place] = answer
        return tuple(found)

    def _fitted(self, chosen: NDArray[np.bool_]) -> Chain:
        key = chosen.tobytes()
        if key not in self._known:
            places = np.flatnonzero(chosen).tolist()
            tables, tags = [self._tables[place] for place in places], [self._tags[place] for place in places]
            self._known[key] = fit_chain(tables, tags, self._parts)
        return self._known[key]


def try_chains(context: RunContext, fit: PromptFit) -> Chains | None:
    """Chains if a run reads words and uses them, because its best frozen probe's answers are better so; a ``chain`` step.

    The score must be higher by a standard error of the difference (jackknife over rows, or groups of them), both cross-fitted.
    Where values are rare, a chain may be right about more words and have a lower F1.
    """
    choosing = context.choosing
    if not isinstance(choosing, FieldAnswering) or not isinstance(tags := choosing.fields, Tags) or len(fit.rows) < 2 * FOLDS:
        return None
    words = max(len(words_of(row.text)) for row in fit.rows)
    # Also for the read-outs to come, some of which learn from other rows.
    seconds = 2 * FOLDS * fit_seconds(len(fit.rows), words, len(tags.copied))
    chains, spending = Chains(choosing, tags, fit, context.seed), context.spending

    def effect() -> dict[str, Any]:
        if spending.budget.kind == "time" and seconds > COST_SHARE * spending.left_within_step():
            return {"used": False, "text": "which tags follow each other is not learnt, as the fits would take too long"}
        log_probs, rows = fit.found.log_probs, fit.rows
        alone, chained = (
            choosing.judged(log_probs, rows, answers)
            for answers in (choosing.answers(log_probs, rows), chains.answers(log_probs, rows))
        )
        used, name = _is_better(chained, alone, context.task.measure, fold_units(rows)), context.task.measure.name
        return {
            "used": used,
            "rows": len(rows),
            "score": round(chained.score, 6),
            "without": round(alone.score, 6),
            "text": f"which tags follow each other {'is' if used else 'is not'} taken into account: cross-fitted {name} "
            f"{chained.score:.3f} with, {alone.score:.3f} without",
        }

    used = context.journal.step("chain", [fit.prompt.id, [row.id for row in fit.rows]], effect)["used"]
    return chains if used else None


def _is_better(one: Evaluation, other: Evaluation, measure: Metric, units: NDArray[np.str_] | None) -> bool:
    """Whether the first score is higher by more than a standard error of the difference; ``units`` as of :func:`fold_units`."""
    if measure.aggregate is None or one.counts is None or other.counts is None:
        gain = one.values - other.values
        return bool(gain.mean() > standard_error(gain, units))
    without = without_each(aggregate_statistic(measure.aggregate, [one.counts, other.counts]), one.n, units)
    spread = without[:, 0] - without[:, 1]
    error = np.sqrt((len(spread) - 1) / len(spread) * ((spread - spread.mean()) ** 2).sum())
    return bool(one.score - other.score > error)
