"""What the end of a run costs: confirming, the test, and what is measured after it. The one place that knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from cotune.config import RunConfig
from cotune.cycle.budget.reserve import closing_cost
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import FORMATS, LEAST_FORMATS, NOISE, formats_row, noise_row, variants_of
from cotune.cycle.diagnostics.slices import END_SHARE
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.measured import CALIBRATION_ROWS, Measured, measure_base, measure_previous
from cotune.cycle.word_search.heads import Heads
from cotune.cycle.word_search.heuristics import HEURISTICS
from cotune.cycle.word_search.state import Search
from cotune.cycle.word_search.trial import Trial
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

Aside = Literal["all", "heads", "least"]
"""What counts beside what a run cannot do without: heads and all that is measured after the test, heads alone, or nothing."""


class EndCosts:
    """Prices the end, in the budget's own unit, by what was measured as soon as it was.

    Before the first race nothing is known of the prompts that the arms will ask, so each counts as one more, like the seed
    prompt. Once the race has ended, what confirming needs of the base model in any case is measured: from then on it is known
    which prompts are asked, which arms are others' doubles, and how long an untuned answer is under each.

    Args:
        context: where effects happen, and what rows cost.
        config: whether formats and slices are measured.
        previous: what is taken over from an earlier bundle, an arm of its own.
    """

    def __init__(self, context: RunContext, config: RunConfig, previous: Previous | None = None) -> None:
        self.context, self.previous = context, previous
        self.heads = Heads(context)
        self._formats, self._slices = config.evaluate.robustness and context.answers.grader is None, config.evaluate.slices
        self.fixed = closing_cost(context.spending.budget)
        """Of a time budget: for the report and for saving."""
        self.aside: Aside = "all"
        """What the plan had room for; what it has not is done all the same where the end finds room."""
        self._only: Prompt | None = None
        self._on_dev: set[str] = set()
        self._looked_at = 0
        self._variants: dict[str, list[Prompt]] = {}

    # Measuring what will be needed ---------------------------------------------------------------------------------

    def look(self, seed: Prompt, finalists: Sequence[Prompt]) -> None:
        """Measure the base model's finalists on dev, which confirming takes from what is known then.

        Raises:
            DivergedError: scores are not finite.
        """
        if self.previous is not None:
            measure_previous(self.context, self.previous.candidate)
        found: list[Measured] = [
            measure_base(self.context, prompt) for prompt in {p.id: p for p in (seed, *finalists)}.values()
        ]
        self._on_dev = {measured.candidate.prompt.id for measured in found}
        self._only = max(found, key=lambda measured: measured.rank).candidate.prompt
        self._answer(self._only, BASE)

    def learn(self, winner: Trial) -> None:
        """See how long answers get under a winner's prompt: with the base model, and with its weights as they learn more.

        Raises:
            DivergedError: scores are not finite.
        """
        self._answer(winner.prompt, BASE)
        ground = winner.ground.candidate
        if ground.adapter != BASE and ground.steps >= HEURISTICS.grown * self._looked_at:
            self._looked_at = max(1, ground.steps)
            self._answer(winner.prompt, ground.adapter)

    def _answer(self, prompt: Prompt, adapter: str) -> None:
        context = self.context
        if context.answers.written_late and not (adapter == BASE and context.spending.rows.knows_answers(prompt)):
            asked = context.task.test.n + len(context.dev)
            rows = max(1, min(HEURISTICS.answered, asked // HEURISTICS.answered_share))
            context.answers.scores(prompt, adapter, context.train_sample[:rows], "measure")

    # Pricing -------------------------------------------------------------------------------------------------------

    def cost(
        self,
        seed: Prompt,
        chosen: Prompt,
        *,
        alone: bool = False,
        new: bool = False,
        aside: Aside | None = None,
    ) -> float:
        """Of the whole end.

        Args:
            seed: the seed prompt.
            chosen: the prompt that wins, tuned.
            alone: whether that is the tuned seed prompt, so that its arms are the seed prompt's.
            new: whether ``chosen`` only stands for a prompt of its length that nobody knows yet.
            aside: what counts beside what a run cannot do without; None means what the plan had room for.
        """
        aside = aside or self.aside
        context = self.context
        base, tuned = self._arms(seed, chosen, alone, new)
        rows = sum(context.spending.rows.scored(prompt) for name, (prompt, _) in base.items() if name not in self._on_dev)
        # Before the finalists were looked at, there is one more of them than there are arms.
        rows += 0.0 if self._on_dev else context.spending.rows.scored(seed)
        confirm = len(context.dev) * rows
        if context.answering.rules and context.answers.calibrates:
            confirm += min(CALIBRATION_ROWS, len(context.task.train)) * rows
        confirm += sum(self._answers_to_dev(prompt, tuned=True) for prompt in tuned)
        if self.previous is not None and not self._on_dev:
            confirm += len(context.dev) * self._previous_row()
        whole = HEURISTICS.end_care * (confirm + context.task.test.n * self._test_row(base, tuned)) + self.fixed
        heads = 0.0 if aside == "least" else sum(map(self.heads.cost, tuned))
        return whole + heads + (self._extras(chosen) if aside == "all" else 0.0)

    def election(self, search: Search) -> Callable[[Measured], bool]:
        """Tells who may win beside the winner and the seed prompt: whoever there is room to ask for answers and to test."""
        seed, winner, left = search.seed, search.winner, self.context.spending.left()
        alone = winner is seed
        beside = 0.0 if alone else self._answers_to_dev(winner.prompt, tuned=True)

        def stands(measured: Measured) -> bool:
            prompt, tuned = measured.candidate.prompt, measured.candidate.adapter != BASE
            if tuned:
                return beside + self.cost(seed.prompt, prompt, aside="least") <= left
            # Hardly ever better than what was tuned, so that nothing is left out for it.
            return self._answers_to_dev(prompt, tuned=False) + self.cost(seed.prompt, winner.prompt, alone=alone) <= left

        return stands

    def test_row(self, seed: Prompt) -> float:
        """Of a test row over all arms, before anything is known."""
        return HEURISTICS.end_care * self._test_row(*self._arms(seed, seed, False, True))

    def _arms(
        self, seed: Prompt, chosen: Prompt, alone: bool, new: bool
    ) -> tuple[dict[str, tuple[Prompt, bool]], list[Prompt]]:
        """What the base model is asked on the test, by name, with whether it is a prompt that nobody knows yet; and tuned
        weights."""
        base = {seed.id: (seed, False)}
        only = self._only
        base.setdefault("only" if only is None else only.id, (only or seed, only is None))
        base.setdefault("new" if new else chosen.id, (chosen, new))
        return base, [seed] if alone else [seed, chosen]

    def _test_row(self, base: dict[str, tuple[Prompt, bool]], tuned: list[Prompt]) -> float:
        rows = self.context.spending.rows
        cost = sum(rows.scored(prompt) + rows.written(prompt, tuned=False, new=new) for prompt, new in base.values())
        cost += sum(rows.scored(prompt) + rows.written(prompt, tuned=True) for prompt in tuned)
        return cost + self._previous_row()

    def _answers_to_dev(self, prompt: Prompt, *, tuned: bool) -> float:
        """Of what a finalist writes on dev, some time after it was scored there."""
        return (
            len(self.context.dev) * self.context.spending.rows.written(prompt, tuned=tuned, apart=True)
            if self.context.answers.written_late
            else 0.0
        )

    def _previous_row(self) -> float:
        if self.previous is None:
            return 0.0
        prompt = self.previous.candidate.prompt
        return self.context.spending.rows.scored(prompt) + self.context.spending.rows.written(prompt, tuned=True)

    def _extras(self, chosen: Prompt) -> float:
        """Of what is measured after the test; what would have no room then is not put aside either."""
        context, dev = self.context, len(self.context.dev)
        cost = NOISE.cost(context.spending.costs, dev, *noise_row(context, chosen, tuned=True))
        if self._formats and len(variants := self._variants_of(chosen)) >= LEAST_FORMATS:
            cost += FORMATS.cost(context.spending.costs, dev, *formats_row(context, chosen, variants))
        return cost + (END_SHARE * context.spending.budget.amount if self._slices else 0.0)

    def _variants_of(self, prompt: Prompt) -> list[Prompt]:
        if prompt.id not in self._variants:
            self._variants[prompt.id] = variants_of(self.context, prompt)
        return self._variants[prompt.id]
