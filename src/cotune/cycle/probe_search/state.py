"""State and result of a label search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.probe_search.fits import PromptFit, difference
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.race import ProbeRaceResult
from cotune.cycle.probe_search.readouts.tfidf import Mix
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.probe_search.trial import Fitted
from cotune.evaluate.stats.cross_fitted import corrected_error, standard_error
from cotune.evaluate.stats.intervals import Interval
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.task.example import Example
from cotune.task.sealed import SealedTest
from cotune.task.split import fold_units

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Result of a candidate on held-out rows.

    Attributes:
        fit: the prompt with its frozen probe.
        epochs: epochs of tuning; 0 if the weights are frozen.
        mix: share of TF-IDF and temperature.
        losses: ``[rows]`` held-out log-loss in nats, after temperature, in the order of the splits.
        correct: ``[rows]`` 1 if the likeliest label was right, otherwise 0.
        counts: ``[rows]`` whether a row counts: not if the prompt shows it with its answer, as with few rows, where train is
            held out too.
        first: weights and read-out of the first split, whose held-out rows are dev.
        score: held-out accuracy; of several fields the task's metric.
        interval: its 95% interval.
        dev_log_probs: ``[dev rows, labels]`` their log-probabilities on dev, in the order of the first split, after
            temperature.
        cut: whether time ended the tuning on a split before half of its steps.
    """

    fit: PromptFit
    epochs: float
    mix: Mix
    losses: Floats
    correct: Floats
    counts: NDArray[np.bool_]
    first: Fitted
    score: float
    interval: Interval
    dev_log_probs: Floats
    cut: bool = False

    @property
    def errors(self) -> Floats:
        """``[counted rows]`` 1 if the likeliest label was wrong, otherwise 0."""
        return np.asarray(1 - self.correct[self.counts])

    @property
    def tuned(self) -> bool:
        """Whether weights were tuned."""
        return self.epochs > 0

    @property
    def mean(self) -> float:
        """Mean held-out log-loss."""
        return float(self.losses[self.counts].mean())

    def gap(self, other: Evidence) -> Floats:
        """Log-loss less that of another candidate, row by row, on the rows that count for both."""
        both = self.counts & other.counts
        return np.asarray(self.losses[both] - other.losses[both])

    def beats(self, other: Evidence) -> bool:
        """Whether its log-loss is lower, on the rows that count for both if they were judged on the same rows."""
        return bool(self.gap(other).mean() < 0) if len(self.losses) == len(other.losses) else self.mean < other.mean


@dataclass
class LabelSearch:
    """State and result of a label search.

    Attributes:
        proposals: every prompt that was embedded, by id.
        base_race: the first race, under the base model.
        fits: cross-fitted probe of each prompt, by id, on all of ``rows``.
        seed: fit of the seed prompt.
        rows: rows that the user labelled, in the order of races; without those that a cut race did not read.
        splits: splits of the rows, which prompts are judged on.
        cut: whether the first race was cut for lack of time.
        evidence: every candidate that was judged on held-out rows.
        winner: the best of them.
        cycles: a record for each cycle.
        stopped: why the search ended.
        epochs: epochs of a trial.
        zero_shot: whether the budget has room for the reference that asks the untuned model for label words.
        tunes_seed: whether the budget has room for tuning the seed prompt too, for the arm that tells what tuning alone gains.
        last_epochs: epochs of the final tuning on all rows; 0 if there is only room for a trial.
        written: rows that a teacher labelled, names of labels, and the user's rows that were not raced: read-outs and tuning
            learn from them, but no prompt is judged on them.
        further: number of the user's rows among them.
        whole: whether a trial learns from so many rows that it may ship without a final tuning.
        named: the best frozen prompt's probe, fitted with names of labels; None if these are not used.
        whole_test: the test before rows were left out for lack of time; None if all are scored.
    """

    by_probe: ClassVar[bool] = True

    proposals: dict[str, Proposal]
    base_race: ProbeRaceResult
    fits: dict[str, PromptFit]
    seed: PromptFit
    rows: tuple[Example, ...]
    splits: tuple[Split, ...]
    cut: bool
    evidence: list[Evidence] = field(default_factory=list)
    winner: Evidence | None = None
    cycles: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    epochs: float = 0.0
    last_epochs: float = 0.0
    zero_shot: bool = True
    tunes_seed: bool = True
    written: tuple[Example, ...] = ()
    further: int = 0
    whole: bool = False
    named: Evidence | None = None
    whole_test: SealedTest | None = None

    @property
    def few(self) -> bool:
        """Whether there are so few rows that each was held out once, by trials of two thirds of them."""
        return len(self.rows) < HEURISTICS.few_rows

    @property
    def best_frozen(self) -> PromptFit:
        """The prompt whose frozen probe has the lowest cross-fitted log-loss."""
        return min(self.fits.values(), key=lambda fit: fit.mean)

    @property
    def first(self) -> Evidence | None:
        """Evidence of the best frozen prompt, which the first bundle holds; None before it was judged."""
        return self.of(self.best_frozen.prompt.id, tuned=False)

    @property
    def prompts_tuned(self) -> int:
        """Prompts whose weights were tuned."""
        return len({e.fit.prompt.id for e in self.evidence if e.tuned})

    @property
    def further_rows(self) -> tuple[Example, ...]:
        """Rows that were learnt from and not raced; also the names of labels and a teacher's rows."""
        return self.written

    def of(self, prompt_id: str, *, tuned: bool) -> Evidence | None:
        """The best evidence of a prompt, frozen or tuned; None if there is none."""
        return _best([e for e in self.evidence if e.fit.prompt.id == prompt_id and e.tuned == tuned])

    def choose(self) -> None:
        """Choose the winner among the evidence on all held-out rows: the best trial or the best frozen probe."""
        trial, probe = self._best_judged(tuned=True), self._best_judged(tuned=False)
        self.winner = trial if trial is not None and (probe is None or self._wins(trial, probe)) else probe

    def _best_judged(self, *, tuned: bool) -> Evidence | None:
        held = sum(len(split.held) for split in self.splits)
        return _best([e for e in self.evidence if len(e.losses) == held and e.tuned == tuned])

    def _wins(self, trial: Evidence, probe: Evidence) -> bool:
        """Whether the best trial wins over the best frozen probe.

        A trial has had half of its epochs or fewer, and the frozen probe was chosen on the same rows from many, which flatters
        it. If the trial was as good or somewhat worse, the final result was far better (docs/probe-measurements.md), so a trial
        that is tuned further loses only if it is worse by more than three standard errors. On dev, which is small, trials look
        worse than they are too, and lose only if they are worse by more than two. Two trials are compared without this credit:
        the weights that changed most would get most of it. A trial that was cut has none either, because the final tuning is
        then likely to be cut too.

        If the frozen probe has next to no errors, tuning has little to gain and much to lose, so the trial must be better by a
        standard error, for which rows of a group, and rows with equal inputs, count as one.
        """
        gap = trial.gap(probe)
        if probe.errors.sum() < HEURISTICS.few_errors:
            held = [row for split in self.splits for row in split.held]
            counted = [row for row, counts in zip(held, trial.counts & probe.counts, strict=True) if counts]
            return bool(gap.mean() < -standard_error(gap, fold_units(counted)))
        further = HEURISTICS.credit if self.last_epochs else 0.0
        credit = HEURISTICS.dev_credit if len(self.splits) == 1 else further
        # Repeated rows do not raise the credit: what is less certain is no better.
        return bool(gap.mean() < (0.0 if trial.cut else credit) * standard_error(gap))

    @property
    def handicap(self) -> float:
        """By how much the held-out log-loss of the winning trial is higher than that of the best frozen probe, else 0."""
        probe = self._best_judged(tuned=False)
        if self.winner is None or not self.winner.tuned or probe is None:
            return 0.0
        return max(0.0, float(self.winner.gap(probe).mean()))

    @property
    def challenger(self) -> PromptFit | None:
        """The best prompt that was not tuned yet, if its frozen probe is not clearly worse than the best one."""
        return next(self._challengers(), None)

    @property
    def needed(self) -> set[str]:
        """Ids of the prompts whose states may be read again: those of the arms, and those that may be tuned."""
        judged = (self._best_judged(tuned=True), self._best_judged(tuned=False), self.winner)
        arms = (self.seed, self.best_frozen, *(e.fit for e in judged if e is not None))
        return {fit.prompt.id for fit in (*arms, *self._challengers())}

    def _challengers(self) -> Iterator[PromptFit]:
        tried = {e.fit.prompt.id for e in self.evidence if e.tuned or not self.epochs}
        best = self.best_frozen
        fits = sorted((fit for fit in self.fits.values() if fit.prompt.id not in tried), key=lambda fit: fit.mean)

        def near(fit: PromptFit) -> bool:
            gap, units = difference(fit, best)
            return bool(gap.mean() <= 2 * corrected_error(gap, units))

        return (fit for fit in fits if fit is best or near(fit))

    @property
    def parents(self) -> list[Prompt]:
        """The prompts to mutate: the best on held-out rows, then the best by their cross-fitted probes."""
        fits = [e.fit for e in sorted(self.evidence, key=lambda e: e.mean)]
        fits += sorted(self.fits.values(), key=lambda fit: fit.mean)
        return list({fit.prompt.id: fit.prompt for fit in fits}.values())[: HEURISTICS.finalists]


def _best(some: Sequence[Evidence]) -> Evidence | None:
    """The one with the lowest log-loss, each compared with the best before it; None if there is none."""
    best: Evidence | None = None
    for evidence in some:
        if best is None or evidence.beats(best):
            best = evidence
    return best
