"""What the steps of a label search cost, in the budget's own unit."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.config import RunConfig
from cotune.cycle.budget.reserve import closing_cost
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import FORMATS, NOISE
from cotune.cycle.diagnostics.slices import END_SHARE
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.references import zero_shot_cost
from cotune.errors import BudgetError
from cotune.prompt.prompt import Prompt


def too_small(context: RunContext, what: str, needed: float, left: float) -> BudgetError:
    """What is raised where ``what`` needs more of the budget than is left."""
    budget = context.spending.budget
    unit = budget.unit
    gone = f" after the first {budget.amount - left:.0f} s" if budget.kind == "time" else ""
    return BudgetError(
        f"the budget is too small: {what} needs about {needed:.0f} {unit}, and {max(0.0, left):.0f} {unit} are left{gone}",
        hint=f"Give --budget {budget.raised(1.2 * (needed - left))}, or fewer test rows with limit.test=.",
    )


class Prices:
    """Prices by what was measured so far.

    Args:
        context: what rows cost.
        embedding: which layers run.
        trials: how windows are tuned.
        config: what is measured after the test.
    """

    def __init__(self, context: RunContext, embedding: Embedding, trials: Trials, config: RunConfig) -> None:
        self.context, self.embedding, self.trials, self.config = context, embedding, trials, config
        self.fixed = closing_cost(context.spending.budget)
        """Of a time budget: for saving and the report."""

    def race(self, seed: Prompt, rows: int, embedded: int) -> float:
        """Of a race in which so many rows are embedded, all prompts taken together, by the seed prompt's length."""
        return HEURISTICS.other_prompts * self.embedding.row_cost(seed, rows) * embedded / max(1, rows)

    def fits(self, rows: int) -> float:
        """Of cross-fitting the probes of a race in which three prompts see all rows."""
        return HEURISTICS.race_fits * self._fit(rows)

    def tuning(self, fit: PromptFit, rows: int, steps: int) -> float:
        """Of tuning a prompt's window on rows and reading the tuned states of these."""
        context, first = self.context, self.trials.edge(fit)
        # One worker tunes, however many embed.
        slots = context.spending.costs.slots if context.spending.budget.kind == "time" else 1
        edge = slots * self.embedding.row_cost(fit.prompt, rows, layers=[first]) if first else 0.0
        states = self.embedding.row_cost(fit.prompt, rows, layers=[fit.found.layer])
        return context.spending.costs.training(steps * self.trials.step_tokens(fit)) + edge + states + self._fit(rows)

    def trial(self, fit: PromptFit, splits: Sequence[Split], epochs: float) -> float:
        """Of tuning on each split, side by side where there are workers, and judging its held-out rows."""
        costs = self.context.spending.costs
        total, tunings = 0.0, []
        for split in splits:
            steps = self.trials.steps_of(epochs, len(split.learn))
            tunings.append(self.tuning(fit, len(split.learn), steps))
            total += self.embedding.row_cost(fit.prompt, len(split.held), layers=[fit.found.layer])
        if costs.budget.kind == "time" and costs.slots > 1 and tunings:
            return total + max(tunings) * -(-len(tunings) // costs.slots)
        return total + sum(tunings)

    def final(self, fit: PromptFit, rows: int, epochs: float) -> float:
        """Of tuning on all labelled rows."""
        return self.tuning(fit, rows, self.trials.steps_of(epochs, rows))

    def end(
        self,
        search: LabelSearch,
        winner: PromptFit,
        tuned: Sequence[PromptFit],
        rows: int,
        last_epochs: float,
        trying: PromptFit | None = None,
    ) -> float:
        """Of the final tuning of some prompts and of the test; a trial, which is half of a tuning, is not paid twice.

        Args:
            search: what was found.
            winner: the prompt that ships, as it is read.
            tuned: prompts that are tuned on all rows.
            rows: labelled rows, and those that a teacher wrote.
            last_epochs: how often the final tuning meets them.
            trying: a prompt whose trial is under way.
        """
        owed = self.test(search, winner, tuned=bool(search.epochs), words=search.zero_shot)
        if search.epochs and last_epochs:
            for fit in {fit.prompt.id: fit for fit in tuned}.values():
                under_way = trying is not None and fit.prompt.id == trying.prompt.id
                tried = under_way or search.of(fit.prompt.id, tuned=True) is not None
                owed += self.final(fit, rows, last_epochs + (0.0 if tried else search.epochs))
        return owed

    def least(self, seed: Prompt, rows: int, embedded: int, *, test: int | None = None) -> float:
        """Of the shortest run that there is: a race in which so many rows are embedded, won by the seed prompt as it stands.

        Args:
            seed: the seed prompt.
            rows: labelled rows.
            embedded: rows of the race, all prompts taken together.
            test: test rows; None means all.
        """
        test = self.context.task.test.n if test is None else test
        arms = 2 * self.embedding.row_cost(seed, test, layers=[min(self.embedding.layers)])
        return self.race(seed, rows, embedded) / HEURISTICS.other_prompts + arms + self.fixed

    def test(self, search: LabelSearch, winner: PromptFit, *, tuned: bool = True, words: bool = True) -> float:
        """Of the arms on the test, of saving and of the report.

        Args:
            search: what was found, for the seed prompt and the prompt that is best on the base model.
            winner: the prompt that ships, as it is read.
            tuned: whether there are arms with tuned weights.
            words: whether the label words of the untuned model are asked as well, which the run can do without.
        """
        rows = self.context.task.test.n
        frozen = search.fits.get(winner.prompt.id, winner)
        base = {fit.prompt.id: fit for fit in (search.seed, search.best_frozen, frozen)}.values()
        changed = {fit.prompt.id: fit for fit in (search.seed, winner)}.values() if tuned else ()
        arms = sum(self.embedding.row_cost(fit.prompt, rows, layers=[fit.found.layer]) for fit in (*base, *changed))
        return HEURISTICS.care * (arms + (zero_shot_cost(self.context, search.seed.prompt) if words else 0.0)) + self.fixed

    def extras(self) -> float:
        """Of what is measured after the test and decides nothing, at most: a search that could go on leaves this."""
        evaluate = self.config.evaluate
        share = NOISE.share + evaluate.robustness * FORMATS.share + evaluate.slices * END_SHARE
        return share * self.context.spending.budget.amount

    def _fit(self, rows: int) -> float:
        if self.context.spending.budget.kind != "time":
            return 0.0
        return 0.3 + HEURISTICS.fit_seconds * rows * self.context.model.width * len(self.context.task.labels)
