"""Prices of the steps of a label search, in the budget's unit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from cotune.config.sections import EvaluateConfig
from cotune.cycle.budget.reserve import closing_cost
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import FORMATS, NOISE
from cotune.cycle.diagnostics.slices import END_SHARE
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.references import zero_shot_cost
from cotune.errors import BudgetError
from cotune.prompt.prompt import Prompt


def too_small(context: RunContext, what: str, needed: float, left: float) -> BudgetError:
    """The error if ``what`` needs more of the budget than is left."""
    budget = context.spending.budget
    unit = budget.unit
    gone = f" after the first {budget.amount - left:.0f} s" if budget.kind == "time" else ""
    return BudgetError(
        f"the budget is too small: {what} needs about {needed:.0f} {unit}, and {max(0.0, left):.0f} {unit} are left{gone}",
        hint=f"Give --budget {budget.raised(1.2 * (needed - left))}, or fewer test rows with limit.test=.",
    )


class Prices:
    """Prices by the measurements so far.

    Args:
        evaluate: what is measured after the test.
        previous: the bundle that a warm start begins with, which is an arm.
    """

    def __init__(self, trials: Trials, evaluate: EvaluateConfig, previous: Previous | None = None) -> None:
        self._previous = previous
        self._context, self._embedding, self._trials, self._evaluate = trials.context, trials.embedding, trials, evaluate
        self.fixed = closing_cost(trials.context.spending.budget)
        """Cost of saving and the report under a time budget."""
        self._fit_pace = 1.0

    def race(self, seed: Prompt, rows: int, embedded: int) -> float:
        """Cost of a race that embeds ``embedded`` rows over all prompts, by the seed prompt's length."""
        return HEURISTICS.other_prompts * self._embedding.row_cost(seed, rows) * embedded / max(1, rows)

    def rows(self, prompt: Prompt, rows: int) -> float:
        """Cost of embedding rows in a race, by the prompt's own length."""
        return self._embedding.row_cost(prompt, rows)

    def fits(self, rows: int) -> float:
        """Cost of cross-fitting the probes of a race in which three prompts see all rows."""
        return HEURISTICS.race_fits * self._fit(rows)

    def saw_fits(self, rows: int, seconds: float) -> None:
        """Record how long all fits of a race over ``rows`` rows took."""
        if seconds and (expected := self.fits(rows)):
            self._fit_pace = seconds / expected

    def later_fits(self, rows: int) -> float:
        """Cost of :meth:`fits` in a later race, by how long the fits of the last race took."""
        return self._fit_pace * self.fits(rows)

    def later_fit(self, rows: int) -> float:
        """Cost of cross-fitting one probe to all rows, by how long the fits of the last race took."""
        return self._fit_pace * self._fit(rows)

    def tuning(self, fit: PromptFit, rows: int, steps: int) -> float:
        """Cost of tuning a prompt's window on rows and of embedding the rows with the tuned weights.

        Probes are fitted twice, as a start for the head and to the tuned states.
        """
        context, first = self._context, self._trials.edge(fit)
        # One worker tunes, even if many embed.
        slots = context.spending.costs.slots if context.spending.budget.kind == "time" else 1
        stores = first and context.model.shared
        edge = slots * self._embedding.row_cost(fit.prompt, rows, layers=[first]) if stores else 0.0
        layer = self._trials.layer(fit)
        states = self._embedding.row_cost(fit.prompt, rows, layers=[layer], edge=first)
        if layer > self._embedding.layers[-1]:
            # Later races have not read this layer: the head's start takes a pass of the frozen model.
            states += self._embedding.row_cost(fit.prompt, rows, layers=[layer])
        return (
            context.spending.costs.training(steps * self._trials.step_tokens(fit)) + edge + states + 2 * self._single_fit(rows)
        )

    def trial(self, fit: PromptFit, splits: Sequence[Split], epochs: float) -> float:
        """Cost of tuning on each split, in parallel if there are workers, and of judging the held-out rows."""
        costs = self._context.spending.costs
        total, tunings = 0.0, []
        for split in splits:
            steps = self._trials.steps_of(epochs, len(split.learn))
            tunings.append(self.tuning(fit, len(split.learn), steps))
            total += self._embedding.row_cost(fit.prompt, len(split.held), layers=[self._trials.layer(fit)])
        if costs.budget.kind == "time" and costs.slots > 1 and tunings:
            return total + max(tunings) * -(-len(tunings) // costs.slots)
        return total + sum(tunings)

    def further(self, search: LabelSearch, splits: Sequence[Split], count: int, *, epochs: float) -> float:
        """Cost of learning from ``count`` rows that were not raced, also in a trial of ``epochs``; ``splits`` learn from them.

        Frozen probes of two prompts are fitted once without the held-out rows, to be judged, and once for the arms.
        """
        fits = {fit.prompt.id: fit for fit in (search.seed, search.best_frozen)}.values()
        frozen = sum(self._embedding.row_cost(fit.prompt, count, layers=[fit.found.layer]) for fit in fits)
        rows = len(search.rows) + len(search.written) + count
        frozen += 2 * len(fits) * self._single_fit(rows)
        return frozen + (self.trial(search.best_frozen, splits, epochs) if epochs else 0.0)

    def final(self, fit: PromptFit, rows: int, epochs: float) -> float:
        """Cost of tuning on all labelled rows."""
        return self.tuning(fit, rows, self._trials.steps_of(epochs, rows))

    def end(
        self,
        search: LabelSearch,
        winner: PromptFit,
        tuned: Sequence[PromptFit],
        last_epochs: float,
        trying: PromptFit | None = None,
    ) -> float:
        """Cost of the final tuning of the prompts ``tuned``, and of the test if ``winner`` ships.

        A trial is half of a tuning, so prompts that have one, or whose trial is running (``trying``), are tuned only by the
        rest.
        """
        owed = self.test(search, winner, tuned=bool(search.epochs and tuned), words=search.zero_shot)
        rows = len(search.rows) + len(search.written)
        if search.epochs and last_epochs:
            for fit in {fit.prompt.id: fit for fit in tuned}.values():
                under_way = trying is not None and fit.prompt.id == trying.prompt.id
                tried = under_way or search.of(fit.prompt.id, tuned=True) is not None
                owed += self.final(fit, rows, last_epochs + (0.0 if tried else search.epochs))
        return owed

    def owed(self, search: LabelSearch, trying: PromptFit | None = None) -> float:
        """Cost of the final tuning and the test, whether the winner or ``trying``, whose trial is running, wins."""
        winner, seed, last = search.winner, search.seed, search.last_epochs
        fit = search.best_frozen if winner is None else winner.fit
        # A frozen winner is not tuned.
        seeds, tuned = [seed] if search.tunes_seed else [], [fit] if winner is not None and winner.tuned else []
        owed = self.end(search, fit, [*seeds, *tuned], last, trying)
        return owed if trying is None else max(owed, self.end(search, trying, [*seeds, trying], last, trying))

    def room(self, search: LabelSearch, trying: PromptFit | None = None) -> float:
        """Budget that is not reserved for the end, if ``trying`` is tuned next."""
        return self._context.spending.left() - self.owed(search, trying)

    def has_room(self, search: LabelSearch, fit: PromptFit) -> bool:
        """Whether the budget has room for a trial and for the end, whoever wins."""
        return self.trial(fit, search.splits, search.epochs) <= self.room(search, fit)

    def least(self, seed: Prompt, rows: int, embedded: int, *, test: int | None = None) -> float:
        """Cost of the shortest run: the race is won by the frozen seed prompt.

        The race embeds ``embedded`` rows over all prompts; ``test`` is the number of test rows, and None means all.
        """
        test = self._context.task.test.n if test is None else test
        arms = 2 * self._embedding.row_cost(seed, test, layers=[min(self._embedding.layers)])
        return self.race(seed, rows, embedded) / HEURISTICS.other_prompts + arms + self._unchanged(test) + self.fixed

    def test(
        self, search: LabelSearch, winner: PromptFit, *, tuned: bool = True, words: bool = True, rows: int | None = None
    ) -> float:
        """Cost of the arms on the test if ``winner`` ships, of saving and of the report.

        ``tuned`` says whether there are arms with tuned weights, ``words`` whether the untuned model is also asked for label
        words, which it is on all test rows. ``rows`` is the number of test rows for the arms; None means all.
        """
        rows = self._context.task.test.n if rows is None else rows
        frozen = search.fits.get(winner.prompt.id, winner)
        base = {fit.prompt.id: fit for fit in (search.seed, search.best_frozen, frozen)}.values()
        seeds = (search.seed,) if search.tunes_seed else ()
        changed = {fit.prompt.id: fit for fit in (*seeds, winner)}.values() if tuned else ()
        arms = sum(self._embedding.row_cost(fit.prompt, rows, layers=[fit.found.layer]) for fit in base)
        layers = {fit.prompt.id: fit.found.layer for fit in base}
        for fit in changed:
            edge = self._trials.edge(fit)
            # The frozen arm of the same prompt runs first, through the layers below the window.
            known = edge if edge < layers.get(fit.prompt.id, 0) else 0
            arms += self._embedding.row_cost(fit.prompt, rows, layers=[self._trials.layer(fit)], edge=known)
        arms += self._unchanged(rows)
        return HEURISTICS.care * (arms + (zero_shot_cost(self._context, search.seed.prompt) if words else 0.0)) + self.fixed

    def _unchanged(self, rows: int) -> float:
        """Cost of the earlier bundle on dev and on ``rows`` test rows."""
        if self._previous is None:
            return 0.0
        context, candidate = self._context, self._previous.candidate
        count, probe = len(context.dev) + rows, context.model.adapters.probe(candidate.adapter)
        if probe is None:
            return count * context.spending.rows.scored(candidate.prompt)
        return self._embedding.row_cost(candidate.prompt, count, layers=[probe.layer])

    def extras(self) -> float:
        """Maximum cost of measurements after the test, which decide nothing; a search that could continue leaves this."""
        evaluate = self._evaluate
        share = NOISE.share + evaluate.robustness * FORMATS.share + evaluate.slices * END_SHARE
        return share * self._context.spending.budget.amount

    def _single_fit(self, rows: int) -> float:
        """Cost of fitting one probe with one penalty."""
        width, choosing = self._context.model.width, self._context.choosing
        if choosing.reads_words or self._context.spending.budget.kind != "time":
            return self._fit(rows)
        return 0.1 + HEURISTICS.single_fit_seconds * rows * width * len(choosing.labels)

    def _fit(self, rows: int) -> float:
        if self._context.spending.budget.kind != "time":
            return 0.0
        width, choosing = self._context.model.width, self._context.choosing
        if choosing.reads_words:
            return 0.3 + HEURISTICS.tag_fit_seconds * rows * width * self._values_a_row
        return 0.3 + HEURISTICS.fit_seconds * rows * width * len(choosing.labels)

    @cached_property
    def _values_a_row(self) -> float:
        """Mean number of a row's words times the values of their tags, and the values of the whole row's fields."""
        choosing, rows = self._context.choosing, self._context.train_sample
        owners = choosing.owners(rows)
        tags = sum(choosing.sizes[:2])
        return (0 if owners is None else len(owners)) / max(1, len(rows)) * tags + len(choosing.labels) - tags
