"""What the winner's failures say to the next pool: instructions by a language model, and rows like those it gets wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.lab import Lab
from cotune.cycle.remote import prices_of
from cotune.cycle.slicing import measure_slices, slicing_tokens
from cotune.cycle.track import Measured, with_answers
from cotune.endpoint import TRIES, Endpoint, EndpointError, Usage, ask, estimate_tokens
from cotune.endpoint.way import FORMS, Way
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal, fits
from cotune.refine.copied import RowGrams
from cotune.refine.rewriting import ANSWER_SCHEMA, Case, Failures, Question, accept, messages_for, read_answer
from cotune.task.example import Example

_SLICES, _CASES, _SUCCESSES, _UNGROUPED = 4, 3, 6, 8
_NEAR_ROWS = 96
_ANSWER_TOKENS, _LEAST_ANSWER = 1500, 200
_LEAST_ROWS = 8
_WRITTEN = 64
"""Dev rows that the winner answers for this where answers are written late: enough failures to learn from."""
_GIVE_UP = 2
"""Cycles in a row without an answer after which the endpoint is not asked any more."""
_SHARE = 0.05
"""Of a time budget: what one cycle waits for an answer at most."""
_WAIT_S = 15.0
"""About how long an answer takes, before any came."""


@dataclass(frozen=True)
class Guided:
    """What goes into a pool beside what is bred.

    Attributes:
        rewrites: prompts by the language model.
        close: train row id to how like a failure it is; empty where no hard rows are shown.
    """

    rewrites: tuple[Proposal, ...] = ()
    close: Mapping[str, float] = field(default_factory=dict)


class Guide:
    """Looks at the winner's failures once a cycle; does nothing at all where the config asks for neither of its two uses.

    Args:
        lab: where effects happen.
        config: the run's config.
    """

    def __init__(self, lab: Lab, config: RunConfig) -> None:
        self.lab, self.config = lab, config
        proposer = config.proposer
        self.endpoint = (
            Endpoint(proposer.base_url, proposer.model, proposer.key_env, proposer.timeout, "proposer")
            if proposer.base_url is not None and proposer.model is not None
            else None
        )
        self._hard = config.search.hard_demonstrations and config.search.demonstrations
        self._requests, self._tokens, self._in_vain = 0, 0, 0
        self._waited = 0.0
        self._way = Way(0, form=FORMS[0])

    @property
    def on(self) -> bool:
        """Whether the config asks for it."""
        return self.endpoint is not None or self._hard

    def cost(self, prompt: Prompt) -> float:
        """What the next look at a winner of about this prompt's length costs, in the budget's unit; money for an answer aside,
        which :meth:`look` takes from its ``room``."""
        if not self.on:
            return 0.0
        lab = self.lab
        cost = lab.costs.scoring(slicing_tokens(lab, self._near))
        if lab.writes_late:
            cost += min(_WRITTEN, len(lab.dev)) * (lab.rows.scored(prompt) + lab.rows.written(prompt, tuned=True))
        if lab.costs.budget.kind == "time" and self.endpoint is not None and not self._over():
            cost += min(self._patience(), self._waited or _WAIT_S)
        return cost

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
        winner = with_answers(self.lab, winner, "guide", _WRITTEN)
        slices = measure_slices(self.lab, winner, cycle=cycle, near=self._near, least=_LEAST_ROWS)
        rewrites = self._rewrite(cycle, winner, slices, known, room) if self.endpoint is not None else []
        return Guided(tuple(rewrites), slices.get("close", {}))

    def _rewrite(
        self, cycle: int, winner: Measured, slices: Mapping[str, Any], known: Iterable[Prompt], room: float
    ) -> list[Proposal]:
        """Ask, and take what is sound; recorded as a ``rewrite`` step, so that a run that goes on pays for no answer twice."""
        question = self._question(winner, slices)

        def effect() -> dict[str, Any]:
            started = time.monotonic()
            found = {"requests": 0, "tokens": 0, **self._asked(question, known, room)}
            seconds = round(time.monotonic() - started, 3)
            return {"cycle": cycle, "model": self.config.proposer.model, **found, "seconds": seconds}

        key = [cycle, question.prompt.id, [row.id for row in question.rows]]
        value = self.lab.journal.step("rewrite", key, effect)
        self.lab.account.pay(value)
        self._requests += int(value["requests"])
        self._tokens += int(value["tokens"])
        if value["requests"]:
            self._waited = max(self._waited, float(value.get("seconds", 0.0)))
        if "way" in value:
            self._way = Way.from_json(value["way"])
        self._in_vain = self._in_vain + 1 if "failed" in value else 0 if value["requests"] else self._in_vain
        return [Proposal.from_json(item) for item in value.get("proposals", [])]

    def _over(self) -> str:
        """Why the endpoint is asked no more; empty where it still is."""
        if self._in_vain >= _GIVE_UP:
            return f"it gave no answer {self._in_vain} cycles in a row, so it is not asked any more"
        calls = self.config.proposer.calls
        return f"proposer.calls={calls} are used up" if self._requests >= calls else ""

    def _patience(self) -> float:
        """Seconds that a cycle waits for an answer at most."""
        budget, most = self.lab.costs.budget, 2 * self.config.proposer.timeout
        return min(most, _SHARE * budget.amount) if budget.kind == "time" else most

    def _asked(self, question: Question, known: Iterable[Prompt], room: float) -> dict[str, Any]:
        assert self.endpoint is not None
        proposer, tokens = self.config.proposer, self.config.proposer.tokens - self._tokens
        if not any(group.cases for group in question.failures):
            return {"skipped": "the winner gets no dev row wrong"}
        if over := self._over():
            return {"skipped": over}
        messages = messages_for(self.lab.task, question)
        asking = estimate_tokens(messages)
        answer_tokens = min(_ANSWER_TOKENS, tokens - asking)
        if answer_tokens < _LEAST_ANSWER:
            return {"skipped": f"proposer.tokens={proposer.tokens} leave no room for a question of about {asking} tokens"}
        # A try that brings nothing may be paid for too.
        tries = min(TRIES, tokens // (asking + answer_tokens))
        dearest = self._paid(Usage(asking, answer_tokens)).get("dollars", 0.0)
        if self.lab.costs.budget.kind == "money" and dearest > 0:
            tries = int(min(tries, max(0.0, room) / dearest))
        if tries < 1:
            return {"skipped": f"an answer may cost {dearest:.2g} USD, and the race and the end leave less of the budget"}
        self.lab.watcher.progress("rewrite", f"{proposer.model} reads what goes wrong", 0)
        way, calls, patience = replace(self._way, tokens=answer_tokens), proposer.calls - self._requests, self._patience()
        try:
            answer = ask(self.endpoint, messages, way=way, schema=ANSWER_SCHEMA, tries=tries, most=calls, patience=patience)
        except EndpointError as error:
            lost = error.usage
            return {"failed": str(error), "requests": error.requests, "tokens": lost.total, **self._paid(lost)}
        spent = {
            "requests": answer.requests,
            "tokens": answer.tokens,
            "way": answer.way.to_json(),
            **self._paid(answer.usage),
        }
        items = read_answer(answer.text)
        if items is None:
            return {**spent, "failed": f"the answer holds no list of instructions: {' '.join(answer.text.split())[:160]!r}"}
        found = accept(items, self.lab.task, question, self._grams, known)
        return {**spent, "proposals": [proposal.to_json() for proposal in found.proposals], "refused": found.refused}

    def _paid(self, usage: Usage) -> dict[str, float]:
        prices = prices_of(self.config.proposer)
        return {"dollars": round(prices.cost(usage), 9)} if prices else {}

    def _question(self, winner: Measured, slices: Mapping[str, Any]) -> Question:
        """A few failures of each slice, or a few of all where there are no slices, and a few rows that are right."""
        evaluation, dev = winner.evaluation, self.lab.dev

        def case(place: int) -> Case:
            return Case(dev[place], evaluation.answers[place] if evaluation.answers else "")

        groups = [
            Failures(
                f"{', '.join(s['words'])} ({s['n']} rows, {100 * s['rate']:.0f}% wrong)",
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
        return tuple(row for row in self.lab.train_sample if fits(row))[:_NEAR_ROWS] if self._hard else ()

    @cached_property
    def _grams(self) -> RowGrams:
        return RowGrams(self.lab.task)
