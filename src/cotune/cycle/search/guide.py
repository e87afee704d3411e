"""What the winner's failures say to the next pool: instructions by a language model, and rows like those it gets wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.slices import measure_slices, slicing_tokens
from cotune.cycle.search.measured import Measured, with_answers
from cotune.cycle.search.proposers import Proposer
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal, fits
from cotune.refine.copied import RowGrams
from cotune.refine.rewriting import Case, Failures, Question, accept, messages_for, read_answer
from cotune.task.example import Example

_SLICES, _CASES, _SUCCESSES, _UNGROUPED = 4, 3, 6, 8
_NEAR_ROWS = 96
_LEAST_ROWS = 8
_WRITTEN = 64
"""Dev rows that the winner answers for this where answers are written late: enough failures to learn from."""


@dataclass(frozen=True)
class Guided:
    """What goes into a pool beside what is mutated.

    Attributes:
        rewrites: prompts by the language model.
        close: train row id to how like a failure it is; empty where no hard rows are shown.
    """

    rewrites: tuple[Proposal, ...] = ()
    close: Mapping[str, float] = field(default_factory=dict)


class Guide:
    """Looks at the winner's failures once a cycle; does nothing at all where the config asks for neither of its two uses.

    Args:
        context: where effects happen.
        config: the run's config.
    """

    def __init__(self, context: RunContext, config: RunConfig) -> None:
        self.context = context
        self.proposer = Proposer(context, config.proposer) if config.proposer.base_url is not None else None
        self._hard = config.search.hard_demonstrations and config.search.demonstrations

    @property
    def on(self) -> bool:
        """Whether the config asks for it."""
        return self.proposer is not None or self._hard

    def cost(self, prompt: Prompt) -> float:
        """What the next look at a winner of about this prompt's length costs, in the budget's unit; money for an answer aside,
        which :meth:`look` takes from its ``room``."""
        if not self.on:
            return 0.0
        context = self.context
        cost = context.spending.costs.alone.scoring(slicing_tokens(context, self._near))
        if context.answers.written_late:
            cost += min(_WRITTEN, len(context.dev)) * (
                context.spending.rows.scored(prompt) + context.spending.rows.written(prompt, tuned=True)
            )
        return cost + (self.proposer.cost() if self.proposer is not None else 0.0)

    def look(self, cycle: int, winner: Measured, known: Iterable[Prompt], room: float = float("inf")) -> Guided | None:
        """Slices of the winner's failures, then what they are for; None where the config asks for nothing.

        Args:
            cycle: whose pool is made.
            winner: on all of dev.
            known: prompts that there are.
            room: of a budget of money, what an answer may cost; where it may cost more, none is asked for.
        """
        if not self.on:
            return None
        winner = with_answers(self.context, winner, "guide", _WRITTEN)
        slices = measure_slices(self.context, winner, cycle=cycle, near=self._near, least=_LEAST_ROWS)
        rewrites = self._rewrite(self.proposer, cycle, winner, slices, known, room) if self.proposer is not None else []
        return Guided(tuple(rewrites), slices.get("close", {}))

    def _rewrite(
        self,
        proposer: Proposer,
        cycle: int,
        winner: Measured,
        slices: Mapping[str, Any],
        known: Iterable[Prompt],
        room: float,
    ) -> list[Proposal]:
        """Ask, and take what is sound; recorded as a ``rewrite`` step, so that a run that goes on pays for no answer twice."""
        question = self._question(winner, slices)

        def effect() -> dict[str, Any]:
            started = time.monotonic()
            found = {"requests": 0, "tokens": 0, **self._asked(proposer, question, known, room)}
            seconds = round(time.monotonic() - started, 3)
            return {"cycle": cycle, "model": proposer.name, **found, "seconds": seconds}

        value = self.context.journal.step("rewrite", [cycle, question.prompt.id, [row.id for row in question.rows]], effect)
        proposer.saw(value)
        return [Proposal.from_json(item) for item in value.get("proposals", [])]

    def _asked(self, proposer: Proposer, question: Question, known: Iterable[Prompt], room: float) -> dict[str, Any]:
        if not any(group.cases for group in question.failures):
            return {"skipped": "the winner gets no dev row wrong"}
        answer = proposer.asked(messages_for(self.context.task, question), room)
        text = answer.pop("text", None)
        if text is None:
            return answer
        items = read_answer(text)
        if items is None:
            return {**answer, "failed": f"the answer holds no list of instructions: {' '.join(text.split())[:160]!r}"}
        found = accept(items, self.context.task, question, self._grams, known)
        return {**answer, "proposals": [proposal.to_json() for proposal in found.proposals], "refused": found.refused}

    def _question(self, winner: Measured, slices: Mapping[str, Any]) -> Question:
        """A few failures of each slice, or a few of all where there are no slices, and a few rows that are right."""
        evaluation, dev = winner.evaluation, self.context.dev

        def case(place: int) -> Case:
            return Case(dev[place], evaluation.answers[place] if evaluation.answers else "")

        groups = [
            Failures(
                f"{', '.join(s['words'])} ({counted(s['n'], 'row')}, {100 * s['rate']:.0f}% wrong)",
                tuple(map(case, s["failures"][:_CASES])),
            )
            for s in slices.get("slices", [])[:_SLICES]
        ]
        if not groups:
            groups = [Failures("", tuple(case(int(i)) for i in np.flatnonzero(evaluation.correct == 0)[:_UNGROUPED]))]
        right: dict[str, int] = {}
        for place in np.flatnonzero(evaluation.correct == 1):
            right.setdefault(dev[place].output, int(place))
        return Question(winner.candidate.prompt, tuple(groups), tuple(case(i) for i in list(right.values())[:_SUCCESSES]))

    @cached_property
    def _near(self) -> tuple[Example, ...]:
        """The train rows that hard demonstrations are drawn from."""
        return tuple(row for row in self.context.train_sample if fits(row))[:_NEAR_ROWS] if self._hard else ()

    @cached_property
    def _grams(self) -> RowGrams:
        return RowGrams(self.context.task)
