"""Cost of the end of a run: confirmation, the test, and the measurements after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Literal

from cotune.config import RunConfig
from cotune.config.sections import SearchConfig
from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.answer_search.race import FINAL, race_rows_scored
from cotune.cycle.answer_search.state import Search
from cotune.cycle.answer_search.trial import Trial
from cotune.cycle.budget.reserve import closing_cost
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.allowance import FORMATS, LEAST_FORMATS, NOISE, formats_row, noise_row, variants_of
from cotune.cycle.diagnostics.slices import END_SHARE
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.measured import CALIBRATION_ROWS, Measured, measure_base, measure_unchanged
from cotune.cycle.search.pool import nearest_cost
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task

Aside = Literal["all", "least"]
"""Optional parts of the cost: all measurements after the test, or none."""


class EndCosts:
    """Prices the end in the budget's unit, by measurements as soon as there are any.

    Before the first race the prompts of the arms are unknown, so each counts as a further prompt as long as the seed prompt.
    After the race, the base model's scores that confirmation needs are measured. Then it is known which prompts the arms have,
    which arms coincide, and how long untuned answers are under each prompt.

    If the model cannot be tuned, the end is a number of rows of the seed prompt and of those that may win, see :meth:`untuned`.
    An endpoint's price of tokens becomes known only while it answers, so these rows are priced again at each call.

    Args:
        context: context of the run, with prices of rows.
        config: says whether formats and slices are measured.
        previous: the earlier bundle of a warm start, which is a further arm.
    """

    def __init__(self, context: RunContext, config: RunConfig, previous: Previous | None = None) -> None:
        self.context, self.previous = context, previous
        self._formats, self._slices = config.evaluate.robustness and context.answers.grader is None, config.evaluate.slices
        self.fixed = closing_cost(context.spending.budget)
        """Cost of the report and of saving under a time budget."""
        self.aside: Aside = "all"
        """Optional parts that the plan had room for; the others are still measured if there is room at the end."""
        self._only: Prompt | None = None
        self._on_dev: set[str] = set()
        self._looked_at = 0
        self._variants_of = cache(partial(variants_of, context))

    # Measuring what will be needed ---------------------------------------------------------------------------------

    def look(self, seed: Prompt, finalists: Sequence[Prompt]) -> None:
        """Measure the base model's finalists on dev, which confirmation reuses.

        Raises:
            DivergedError: scores are not finite.
        """
        if self.previous is not None:
            measure_unchanged(self.context, self.previous.candidate)
        found: list[Measured] = [
            measure_base(self.context, prompt) for prompt in {p.id: p for p in (seed, *finalists)}.values()
        ]
        self._on_dev = {measured.candidate.prompt.id for measured in found}
        self._only = max(found, key=lambda measured: measured.rank).candidate.prompt
        self._answer(self._only, BASE)

    def learn(self, winner: Trial) -> None:
        """Measure the length of answers under a winner's prompt, with the base model and with its tuned weights.

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
        self, seed: Prompt, chosen: Prompt, *, alone: bool = False, new: bool = False, aside: Aside | None = None
    ) -> float:
        """Cost of the whole end of a search that tunes.

        Args:
            chosen: the winning prompt, tuned.
            alone: whether ``chosen`` is the seed prompt, so that it needs no separate arms.
            new: whether ``chosen`` stands for an unknown prompt of its length.
            aside: optional parts of the cost; None takes those that the plan had room for.
        """
        aside = aside or self.aside
        context = self.context
        base, tuned = self._arms(seed, chosen, alone, new)
        rows = sum(context.spending.rows.scored(prompt) for name, (prompt, _) in base.items() if name not in self._on_dev)
        # Before the finalists are measured, there is one more of them than there are arms.
        rows += 0.0 if self._on_dev else context.spending.rows.scored(seed)
        confirm = len(context.dev) * rows
        if context.answers.calibrates:
            confirm += min(CALIBRATION_ROWS, len(context.task.train)) * rows
        confirm += sum(self._answers_to_dev(prompt, tuned=True) for prompt in tuned)
        if self.previous is not None and not self._on_dev:
            confirm += len(context.dev) * self._previous_row()
        whole = HEURISTICS.end_care * (confirm + context.task.test.n * self._test_row(base, tuned)) + self.fixed
        return whole + (self._extras(chosen) if aside == "all" else 0.0)

    def untuned(self, seed: Prompt, finalists: Sequence[Prompt], known: Collection[str] = ()) -> float:
        """Cost of the whole end of a search without tuning.

        An endpoint shares no prefix, so a prompt with demonstrations costs several times as much as one without.

        Args:
            finalists: prompts that may be finalists and win, at least one.
            known: ids of prompts that were measured on all of dev.
        """
        context, counted = self.context, self.context.spending.rows.counted
        own, others = counted(seed)[0], [(prompt.id, counted(prompt)[0]) for prompt in finalists]
        tokens = _untuned_end_tokens(
            context.task,
            own + max(length for _, length in others),
            0.0 if seed.id in known else own,
            [length for name, length in others if name not in known],
            calibrates=context.answers.calibrates,
        )
        return context.spending.costs.scoring(tokens) + self.fixed

    def election(self, search: Search) -> Callable[[Measured], bool]:
        """Predicate of whether a further candidate may win: there is room for its answers and its test."""
        seed, winner, left = search.seed, search.winner, self.context.spending.left()
        alone = winner is seed
        beside = 0.0 if alone else self._answers_to_dev(winner.prompt, tuned=True)

        def stands(measured: Measured) -> bool:
            prompt, tuned = measured.candidate.prompt, measured.candidate.adapter != BASE
            if tuned:
                return beside + self.cost(seed.prompt, prompt, aside="least") <= left
            # Untuned prompts are hardly ever better than tuned ones, so nothing is left out for them.
            return self._answers_to_dev(prompt, tuned=False) + self.cost(seed.prompt, winner.prompt, alone=alone) <= left

        return stands

    def nearest_tokens(self, search: SearchConfig, seed: Prompt, own: float) -> float:
        """Additional tokens if the winner shows each row its nearest demonstrations; 0 if pools hold no such prompt.

        ``own`` are the tokens of a row without them.
        """
        context = self.context
        # Of the arms on the test three may have it, or one without tuning; and all finalists on dev.
        rows = (3 if context.can.tune else 1) * context.task.test.n + FINAL * len(context.dev)
        return HEURISTICS.nearest_care * rows * nearest_cost(context, search, seed, own)

    def test_row(self, seed: Prompt) -> float:
        """Cost of a test row over all arms, before any measurement."""
        return HEURISTICS.end_care * self._test_row(*self._arms(seed, seed, False, True))

    def _arms(
        self, seed: Prompt, chosen: Prompt, alone: bool, new: bool
    ) -> tuple[dict[str, tuple[Prompt, bool]], list[Prompt]]:
        """Prompts of the base model's arms, by name, each with whether it is still unknown; and prompts with tuned weights."""
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
        """Cost of a finalist's written answers on dev, some time after it was scored there."""
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
        """Cost of measurements after the test; nothing is reserved for those that would be left out then."""
        context, dev = self.context, len(self.context.dev)
        cost = NOISE.cost(context.spending.costs, dev, *noise_row(context, chosen, tuned=True))
        if self._formats and len(variants := self._variants_of(chosen)) >= LEAST_FORMATS:
            cost += FORMATS.cost(context.spending.costs, dev, *formats_row(context, chosen, variants))
        return cost + (END_SHARE * context.spending.budget.amount if self._slices else 0.0)


def _untuned_end_tokens(task: Task, arms: float, seed: float, finalists: Sequence[float], *, calibrates: bool = True) -> float:
    """Number of tokens that the end of an untuned search asks: two arms on the test, the seed prompt and finalists on dev.

    Args:
        arms: tokens of a row of the seed prompt and of the longest prompt that may win, together.
        seed: tokens of a row of the seed prompt; 0 if it was measured on dev.
        finalists: tokens of a row of each prompt that may be a finalist and was not measured on dev; the longest count.
        calibrates: whether a bias is estimated for each finalist.
    """
    calibration = min(CALIBRATION_ROWS, len(task.train)) if calibrates else 0
    longest = sorted(finalists, reverse=True)[:FINAL]
    tokens = task.test.n * arms + len(task.dev) * seed + (len(task.dev) + calibration) * sum(longest)
    return HEURISTICS.untuned_end_care * tokens


def least_rows(task: Task) -> float:
    """Number of rows that the smallest untuned search asks, including its end."""
    bounds = HEURISTICS.untuned_race
    return _untuned_end_tokens(task, 2, 1, [1] * FINAL) + race_rows_scored(
        bounds.least_pool, min(len(task.dev), HEURISTICS.least_race_rows)
    )
