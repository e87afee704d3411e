"""Use of the winner's failures for the next pool: new instructions by a language model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
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
from cotune.refine import Proposal
from cotune.refine.copied import RowGrams
from cotune.refine.rewriting import Case, Failures, Question, accept, messages_for, read_answer

_SLICES, _CASES, _SUCCESSES, _UNGROUPED = 4, 3, 6, 8
_LEAST_ROWS = 8
_WRITTEN = 64
"""Dev rows that the winner answers for this if its answers are not written yet; enough to find failures."""


class Guide:
    """Examines the winner's failures once a cycle and has instructions rewritten; does nothing without a proposer."""

    def __init__(self, context: RunContext, config: RunConfig) -> None:
        self.context = context
        self.proposer = Proposer(context, config.proposer) if config.proposer.base_url is not None else None

    def cost(self, prompt: Prompt) -> float:
        """Cost of the next :meth:`look` at a winner of about this prompt's length, in the budget's unit.

        Money for the proposer's answer is not included; :meth:`look` takes it from its ``room``.
        """
        if self.proposer is None:
            return 0.0
        context = self.context
        cost = context.spending.costs.alone.scoring(slicing_tokens(context))
        if context.answers.written_late:
            cost += min(_WRITTEN, len(context.dev)) * (
                context.spending.rows.scored(prompt) + context.spending.rows.written(prompt, tuned=True)
            )
        return cost + self.proposer.cost()

    def look(self, cycle: int, winner: Measured, known: Iterable[Prompt], room: float = float("inf")) -> list[Proposal]:
        """Prompts by the language model, which is shown slices of the winner's failures; empty without a proposer.

        Recorded as a ``rewrite`` step, so that a resumed run does not pay twice.

        Args:
            cycle: number of the next pool's cycle.
            winner: the winner, measured on all of dev.
            known: prompts that exist already.
            room: dollars that an answer may cost under a money budget; if it may cost more, the proposer is not asked.
        """
        if (proposer := self.proposer) is None:
            return []
        winner = with_answers(self.context, winner, "guide", _WRITTEN)
        question = self._question(winner, measure_slices(self.context, winner, cycle=cycle, least=_LEAST_ROWS))

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
            return {"skipped": "the winner has no wrong answers on dev"}
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
        """A few failures of each slice, or of all rows if there are no slices, and a few right answers."""
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
    def _grams(self) -> RowGrams:
        return RowGrams(self.context.task)
