"""The probe race: embeds prompts on growing numbers of labelled rows, cross-fits probes and drops losers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import Fitting, PromptFit, can_fit, difference
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.errors import CotuneError, DivergedError
from cotune.evaluate.stats.cross_fitted import probably_worse
from cotune.evaluate.stats.racing import Round
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.task.split import count_units

_WORTH = 1.25
"""Minimum ratio of a cut round's rows to those of the round before."""


def rounds_of(prompts: int, rows: int, first_rows: int) -> tuple[Round, ...]:
    """Successive halving: each round doubles the rows and halves the prompts; the last one sees all rows."""
    found, seen, count = [], min(first_rows, rows), prompts
    # A round that would save less than half of the rows is merged with the last one.
    while count > HEURISTICS.finalists and seen < 0.6 * rows:
        count = max(HEURISTICS.finalists, -(-count // 2))
        found.append(Round(keep=count, rows=seen))
        seen *= 2
    return (*found, Round(keep=count, rows=rows))


def rows_embedded(prompts: int, rows: int, first_rows: int) -> int:
    """Maximum number of rows that a race embeds over all prompts, of which one sees every row whatever its rank."""
    total, before, count = 0, 0, prompts
    for step in rounds_of(prompts, rows, first_rows):
        total += (count + (1 if before else 0)) * (step.rows - before)
        before, count = step.rows, step.keep
    return total


def places_after(
    rounds: Sequence[Round],
    number: int,
    standing: int,
    price: Callable[[int, int], float],
    affordable: Callable[[float], bool],
) -> int:
    """Number of prompts that continue after a round: that of the schedule, or fewer if the budget is too small.

    ``standing`` prompts could continue. ``price`` gives the cost of a number of leading prompts, and of those that always
    continue, on a number of further rows, and ``affordable`` says whether the race may have a further cost.
    """
    planned = min(rounds[number].keep, standing)

    def ahead(keep: int) -> float:
        later = pairwise(rounds[number:])
        return sum(price(min(keep, before.keep), after.rows - before.rows) for before, after in later)

    return next((count for count in range(planned, 1, -1) if affordable(ahead(count))), min(1, planned))


@dataclass
class ProbeRaceResult:
    """Result of a race under the base model.

    Attributes:
        read: number of rows of the race; fewer than it was given if it was cut.
        choosing: scores the fits.
        ranking: prompt ids, best first: those that saw all rows by mean log-loss, then the others by the number of rows they
            saw.
        fits: fit of each prompt, by id, on the rows it saw.
        dropped: ids that the test dropped.
        rows: number of rows that each prompt saw, by id.
        full: ids of the prompts whose probes were fitted on all rows at all folds, best first.
        fit_seconds: duration of all fits, in seconds.
    """

    read: int
    choosing: LabelAnswering
    ranking: list[str] = field(default_factory=list)
    fits: dict[str, PromptFit] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    full: list[str] = field(default_factory=list)
    fit_seconds: float = 0.0

    def fits_on(self, rows: int) -> dict[str, PromptFit]:
        """The fits at all folds on this number of rows, best first."""
        return {name: self.fits[name] for name in self.full if self.rows[name] == rows}

    @property
    def best(self) -> PromptFit:
        """The fit of the best prompt."""
        return self.fits[self.ranking[0]]

    def _score(self, fit: PromptFit) -> float:
        return self.choosing.held_out_score(fit.found.log_probs, fit.rows, fit.found.best.correct)

    def record(self) -> dict[str, Any]:
        """Entry in a cycle's record."""
        score, log_loss = round(self._score(self.best), 6), round(self.best.mean, 6)
        return {**self._order(), "dev_score": score, "dev_log_loss": log_loss}

    def _order(self) -> dict[str, Any]:
        return {"adapter_id": BASE, "ranking": self.ranking, "dropped": self.dropped}

    def details(self, compared: Collection[str]) -> dict[str, Any]:
        """Value of the race's step in the journal, with all layers of the finalists and of the prompts that are compared."""
        fits, best = self.fits, self.best
        scores = {name: round(self._score(fit), 4) for name, fit in fits.items()}
        shown = {name: fits[name] for name in self.ranking if name in (*self.ranking[: HEURISTICS.finalists], *compared)}
        return {
            **self._order(),
            "seconds": round(self.fit_seconds, 3),
            "full": self.full,
            "rows": self.rows,
            "scores": scores,
            "log_losses": {name: round(fit.mean, 4) for name, fit in fits.items()},
            "layers": {name: fit.found.layer for name, fit in fits.items()},
            "by_layer": {
                name: {
                    str(one.layer): [
                        round(self.choosing.held_out_score(one.log_probs, fit.rows, one.correct), 4),
                        round(one.log_loss, 4),
                    ]
                    for one in fit.found.by_layer
                }
                for name, fit in shown.items()
            },
            "ridge": {
                name: {str(layer): round(error, 4) for layer, error in fit.found.ridge.items()} for name, fit in shown.items()
            },
            "best": {
                "prompt_id": self.ranking[0],
                "score": scores[self.ranking[0]],
                "log_loss": round(best.mean, 4),
                "layer": best.found.layer,
            },
        }


class ProbeRace:
    """A race of prompts over labelled rows under the base model.

    The schedule is successive halving (:func:`rounds_of`): each round doubles the rows, and at its end half of the prompts
    leave; the last round sees all rows. All prompts see the same rows in the same order. In a round

    1. the active prompts are embedded on the round's new rows (:meth:`_read`),
    2. the probe of each is cross-fitted on all rows so far (:meth:`_fit`),
    3. after the first round, layers that no good prompt reads are left out from then on (:meth:`_narrow`),
    4. prompts that a corrected test finds worse than the leader are dropped (:meth:`_drop`), and
    5. the best of the others continue, as many as the schedule has places for (:meth:`_halve`).

    A row that a prompt shows as a demonstration does not count for that prompt.

    Args:
        rows: labelled rows in random order.
        always: prompts that see all rows whatever their rank.
        affordable: whether the race may embed rows for a further part of the budget; called within a step. If not, because
            passes are slower or prompts longer than planned, fewer prompts continue than the schedule allows.
        limit: cuts the race between prompts and between chunks of rows if the rest of the budget is needed for the end; None
            reads all rows.
    """

    def __init__(
        self,
        context: RunContext,
        embedding: Embedding,
        prompts: Sequence[Prompt],
        rows: Sequence[Example],
        *,
        cycle: int,
        always: Sequence[Prompt],
        first_rows: int,
        affordable: Callable[[float], bool] = lambda cost: True,
        limit: RaceLimit | None = None,
    ) -> None:
        self._context, self._embedding, self._rows, self._cycle = context, embedding, rows, cycle
        self._affordable, self._limit = affordable, limit
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._must, self._protected = always[0].id, {prompt.id for prompt in always}
        self._rounds = rounds_of(len(self._prompts), len(rows), first_rows)
        self._fitting = Fitting(context, embedding)
        self._result = ProbeRaceResult(len(rows), context.choosing)
        self._active = list(self._prompts)
        """Ids of the prompts that continue; the first one is the seed prompt or the winner so far and always continues."""
        self._seen = 0
        """Number of rows that they have seen."""
        self._leader = ""
        """Id of the best of them; empty before the first round."""
        self._failed = set[str]()
        """Ids of the prompts whose states are not finite, or that show all rows of a label."""

    def run(self) -> ProbeRaceResult:
        """Run the race; a ``race`` step.

        Raises:
            CotuneError: every prompt failed.
        """
        for number, planned in enumerate(self._rounds):
            # If a label is rare or a group is large, the round before may have read these rows already.
            if (count := self._enough_rows(planned.rows)) > self._seen:
                if not self._read(count):
                    break
                self._fit()
                if number == 0:
                    self._narrow()
                self._drop()
                if self._at_end:
                    break
            self._halve(number)
        self._rank()
        result, key = self._result, [self._cycle, BASE, list(self._prompts)]
        compared = self._protected & set(result.full)
        value = self._context.journal.step("race", key, lambda: {"cycle": self._cycle, **result.details(compared)})
        # The recorded duration, so that a resumed run prices the next race alike.
        result.fit_seconds = float(value["seconds"])
        return result

    @property
    def _at_end(self) -> bool:
        """Whether the active prompts have seen all rows."""
        return self._seen >= self._result.read

    def _loss(self, name: str) -> float:
        return self._result.fits[name].mean

    def _read(self, count: int) -> bool:
        """Embed the rows of a round; False if there is no time for them, so that the race ends with the rows before."""
        if self._limit is None or not self._limit.slow:
            self._embedding.ahead([self._prompts[name] for name in self._active], BASE, self._rows[:count])
        if self._limit is not None:
            try:
                self._active, count = self._read_within(self._limit, count)
            except DivergedError:
                # The fits find the prompts whose states are not finite.
                self._limit = None
            if count <= self._seen:
                return False
        self._seen = count
        return True

    def _read_within(self, limit: RaceLimit, count: int) -> tuple[list[str], int]:
        """Read a round's rows within the remaining budget; returns the prompts that continue and their number of rows.

        The first prompt always continues, and from the second round on the leader too. A round whose rows cannot be read under
        these prompts is left out, and the race ends with the rows before it.
        """
        active, before, result = self._active, self._seen, self._result
        must = active[:1]
        if before:
            must = list(dict.fromkeys([*must, self._leader]))
            allowed = limit.allowed([self._prompts[name] for name in must], self._rows, before, count, least=before)
            if allowed < count:
                result.read = allowed if limit.partial and allowed >= _WORTH * before else before
                active, count = must, result.read
                if count <= before:
                    return active, before
        # Keep the order, so that passes are the same as without a limit.
        order = [*must, *(name for name in active if name not in must)] if limit.slow else active
        reading, short = list[str](), False
        least = min(count, self._enough_rows(min(count, HEURISTICS.least_rows)))
        for name in order:
            if short and name not in must:
                continue
            at_least = least if name == order[0] and not before else None
            reached = limit.read(self._prompts[name], self._rows, count, least=at_least, fits=len(reading) + 1)
            if reached < count:
                if name not in must:
                    short = True
                    continue
                if before:
                    result.read = before
                    return must, before
                result.read = count = reached
            reading.append(name)
        return reading, count

    def _fit(self) -> None:
        """Fit the probes of the active prompts to the rows so far; prompts that fail, or have no time left, drop out."""
        rows = self._rows[: self._seen]
        for name in self._active[:]:
            # A prompt with demonstrations may show the only row of a label. The seed prompt, or a later race's winner, has to
            # race.
            if name != self._must and not can_fit(self._prompts[name], rows):
                self._fail(name)
        # Few rows make a single round, in which every prompt would be fitted at all folds.
        whole = len(self._active) <= HEURISTICS.full_fits + len(self._protected & set(self._active))
        screening = not (self._at_end and whole)
        if self._context.workers.slots:
            self._fit_ahead(rows, screening)
        for name in list(self._active):
            if not self._has_time(name, self._active[0], self._leader):
                self._active.remove(name)
                continue
            try:
                self._embedding.read(self._prompts[name], BASE, rows, "race")
                self._fit_one(name, rows, screening)
            except DivergedError:
                self._fail(name)
            else:
                self._result.rows[name] = len(rows)
        if self._at_end and not whole:
            self._fit_leading_fully(rows)
        # Requests of prompts that the limit left out.
        self._fitting.cancel_ahead()
        self._embedding.cancel_ahead()
        if not self._active:
            raise CotuneError("every prompt of the race gave hidden states that are not finite")
        self._leader = min(self._active, key=self._loss)

    def _fit_one(self, name: str, rows: Sequence[Example], screening: bool) -> None:
        started = time.monotonic()
        self._result.fits[name] = self._fitting.fit(self._prompts[name], rows, screening=screening)
        seconds = time.monotonic() - started
        self._result.fit_seconds += seconds
        if self._limit is not None:
            self._limit.saw_fit(seconds, len(rows))

    def _fit_leading_fully(self, rows: Sequence[Example]) -> None:
        """Fit the leading prompts, and those that always continue, at all folds after all prompts were fitted at some."""
        active = self._active
        leading = sorted(active, key=self._loss)
        again = [name for name in active if name in self._protected or name in leading[: HEURISTICS.full_fits]]
        for name in again:
            self._fitting.ahead(self._prompts[name], rows)
        for name in again:
            if self._has_time(name, active[0], leading[0], stage="fit fully"):
                self._fit_one(name, rows, False)
                self._result.full.append(name)

    def _fit_ahead(self, rows: Sequence[Example], screening: bool) -> None:
        """Read states embedded by workers, prompt by prompt, and let workers fit the probes."""
        for name in list(self._active):
            try:
                self._embedding.read(self._prompts[name], BASE, rows, "race")
            except DivergedError:
                self._fail(name)
            else:
                self._fitting.ahead(self._prompts[name], rows, screening=screening)

    def _has_time(self, name: str, *sure: str, stage: str = "fit") -> bool:
        """Whether there is time to fit a prompt; the ``sure`` ones are fitted in any case."""
        limit, rows = self._limit, self._seen
        return name in sure or limit is None or not limit.leaves_out(self._prompts[name], rows, stage)

    def _fail(self, name: str) -> None:
        self._failed.add(name)
        self._active.remove(name)

    def _narrow(self) -> None:
        """Leave out layers well above those that the better half of the prompts reads; a ``layers`` step."""
        active, layers = self._active, self._embedding.layers
        better = sorted((self._result.fits[name] for name in active), key=lambda fit: fit.mean)[: max(1, len(active) // 2)]

        def effect() -> dict[str, Any]:
            read = {fit.found.layer for fit in better}
            read |= {min(fit.found.ridge, key=fit.found.ridge.__getitem__) for fit in better if fit.found.ridge}
            place = max(layers.index(layer) for layer in read)
            return {"cycle": self._cycle, "deepest": layers[min(place + HEURISTICS.layer_margin, len(layers) - 1)]}

        value = self._context.journal.step("layers", [self._cycle, active, list(layers)], effect)
        self._embedding.narrow(int(value["deepest"]))

    def _drop(self) -> None:
        """Drop prompts that the test finds worse than the leader; those that always continue are only recorded, at the end."""
        fits, result = self._result.fits, self._result
        spared = {self._leader} if self._at_end else {self._leader, *self._protected}
        comparisons = len(self._rounds) * max(1, len(self._prompts) - 1)
        losers = [
            name
            for name in self._active
            if name not in spared
            and probably_worse(*difference(fits[name], fits[self._leader]), alpha=HEURISTICS.alpha, comparisons=comparisons)
        ]
        result.dropped += [name for name in losers if name not in result.dropped]
        self._active = [name for name in self._active if name not in losers]

    def _halve(self, number: int) -> None:
        """Let the best prompts continue, as many as there are places, and those that always do; a ``places`` step."""
        active = self._active
        ranked = sorted((name for name in active if name not in self._protected), key=self._loss)
        always = [name for name in active if name in self._protected]
        price = partial(self._price, ranked, always)
        places = partial(places_after, self._rounds, number, len(ranked), price, self._affordable)
        # A decision by the clock is recorded, so that a resumed run repeats it.
        keep = int(self._context.journal.step("places", [self._cycle, number, ranked], places))
        staying = {*ranked[:keep], *self._protected}
        self._active = [name for name in active if name in staying]

    def _enough_rows(self, count: int) -> int:
        """The end of a round that was planned for ``count``."""
        return _rows_for_folds(self._rows, count, labels=not self._context.choosing.sizes)

    def _price(self, ranked: Sequence[str], always: Sequence[str], count: int, rows: int) -> float:
        """Cost of the next rows for the first ``count`` of the ranked prompts, and for those of ``always`` that lack states."""
        known, embedding = len(self._rows), self._embedding
        prompts = [self._prompts[name] for name in (*ranked[:count], *always)]
        return sum(embedding.row_cost(one, rows) for one in prompts if embedding.known(one, BASE, self._rows) < known)

    def _rank(self) -> None:
        """Rank all prompts that did not fail."""
        result, failed = self._result, self._failed
        full = result.full or [name for name in result.fits if result.rows[name] == result.read]
        result.full = sorted((name for name in full if name not in failed), key=self._loss)
        others = [name for name in result.fits if name not in result.full and name not in failed]
        result.ranking = [*result.full, *sorted(others, key=lambda name: (-result.rows[name], self._loss(name)))]


def _rows_for_folds(rows: Sequence[Example], count: int, *, labels: bool) -> int:
    """The end of a round that was planned for ``count``, moved until cross-fitting is possible.

    That takes two different outputs, of ``labels`` with two rows each if there are, and two units of rows that stay together.
    Numbers and JSON seldom recur as a whole.
    """
    while count < len(rows):
        common = Counter(row.output for row in rows[:count]).most_common(2)
        if len(common) > 1 and (common[1][1] > 1 or not labels) and count_units(rows[:count]) > 1:
            break
        count += 1
    return count
