"""Use of the winner's failures for the next pool: new instructions by a language model behind an endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.config.endpoints import ProposerConfig
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.slices import measure_slices, slicing_tokens
from cotune.cycle.endpoints import prices_of
from cotune.cycle.search.measured import Measured, with_answers
from cotune.endpoint import TRIES, Client, Endpoint, EndpointError, Usage, ask, estimate_tokens
from cotune.endpoint.request_format import FORMS, RequestFormat
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.refine.copied import RowGrams
from cotune.refine.rewriting import ANSWER_SCHEMA, Case, Failures, Question, accept, messages_for, read_answer

_SLICES, _CASES, _SUCCESSES, _UNGROUPED = 4, 3, 6, 8
_LEAST_ROWS = 8
_WRITTEN = 64
"""Dev rows that the winner answers for this if its answers are not written yet; enough to find failures."""
_ANSWER_TOKENS, _LEAST_ANSWER = 1500, 200
"""Maximum tokens of an answer, and the number below which asking is not worth it."""
_GIVE_UP = 2
"""Cycles in a row without an answer after which the proposer is not asked again."""
_WAIT_SHARE = 0.05
"""Share of a time budget that one cycle waits for its answer at most."""
_WAIT_S = 15.0
"""Expected seconds of an answer before the first one."""
Messages = Sequence[Mapping[str, str]]


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
        late = context.answers.written_late
        cost = context.spending.costs.alone.scoring(slicing_tokens(context, _WRITTEN) if late else slicing_tokens(context))
        if late:
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


class Proposer:
    """Asks an OpenAI-compatible endpoint once a cycle, within ``proposer.calls``, ``proposer.tokens`` and the run's budget."""

    def __init__(self, context: RunContext, config: ProposerConfig) -> None:
        assert config.base_url is not None and config.model is not None
        self.context, self.config, self.name = context, config, config.model
        self._endpoint = Endpoint(config.base_url, config.model, config.key_env, config.timeout, "proposer")
        self._requests, self._tokens, self._in_vain = 0, 0, 0
        self._waited = 0.0
        self._way = RequestFormat(0, form=FORMS[0])

    def cost(self) -> float:
        """Expected seconds of waiting for the next answer; 0 if the budget is not time."""
        waits = self.context.spending.budget.kind == "time" and not self._over()
        return min(self._patience(), self._waited or _WAIT_S) if waits else 0.0

    def asked(self, messages: Messages, room: float) -> dict[str, Any]:
        """Ask for new instructions; under a money budget an answer may cost ``room`` dollars.

        Returns:
            A record for the journal: the answer's ``text``, or the reason as ``failed`` or ``skipped``, and its cost.
        """
        config, tokens = self.config, self.config.tokens - self._tokens
        if over := self._over():
            return {"skipped": over}
        asking = estimate_tokens(messages)
        answer_tokens = min(_ANSWER_TOKENS, tokens - asking)
        if answer_tokens < _LEAST_ANSWER:
            return {"skipped": f"proposer.tokens={config.tokens} leave no room for a question of about {asking} tokens"}
        # A failed try may cost money too.
        tries = min(TRIES, tokens // (asking + answer_tokens))
        dearest = self._paid(Usage(asking, answer_tokens)).get("dollars", 0.0)
        if self.context.spending.budget.kind == "money" and dearest > 0:
            tries = int(min(tries, max(0.0, room) / dearest))
        if tries < 1:
            return {
                "skipped": f"an answer may cost {dearest:.2g} USD, and the budget has less left besides the race and the end"
            }
        self.context.watcher.progress("rewrite", f"{self.name} reads what goes wrong", 0)
        way, calls, patience = replace(self._way, tokens=answer_tokens), config.calls - self._requests, self._patience()
        try:
            with Client(self._endpoint) as client:
                answer = ask(client, messages, way=way, schema=ANSWER_SCHEMA, tries=tries, most=calls, patience=patience)
        except EndpointError as error:
            lost = error.usage
            return {"failed": str(error), "requests": error.requests, "tokens": lost.total, **self._paid(lost)}
        spent = {"requests": answer.requests, "tokens": answer.usage.total, "way": answer.way.to_json()}
        return {"text": answer.text, **spent, **self._paid(answer.usage)}

    def saw(self, value: Mapping[str, Any]) -> None:
        """Count the cost of a recorded step."""
        self.context.spending.account.pay(value)
        self._requests += int(value["requests"])
        self._tokens += int(value["tokens"])
        if value["requests"]:
            self._waited = max(self._waited, float(value["seconds"]))
        if "way" in value:
            self._way = RequestFormat.from_json(value["way"])
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["requests"] else self._in_vain

    def _over(self) -> str:
        """The reason why the endpoint is not asked again; empty if it may be asked."""
        used_up = f"proposer.calls={self.config.calls} are used up" if self._requests >= self.config.calls else ""
        in_vain = f"it gave no answer {self._in_vain} cycles in a row, so it is not asked any more"
        return in_vain if self._in_vain >= _GIVE_UP else used_up

    def _patience(self) -> float:
        """Maximum seconds that a cycle waits for an answer."""
        budget, most = self.context.spending.budget, 2 * self.config.timeout
        return min(most, _WAIT_SHARE * budget.amount) if budget.kind == "time" else most

    def _paid(self, usage: Usage) -> dict[str, float]:
        prices = prices_of(self.config)
        return {"dollars": round(prices.cost(usage), 9)} if prices else {}
