"""Questions to a teacher within the bounds of calls, tokens and money."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cotune.config import RunConfig
from cotune.cycle.answer_search.ending import least_rows
from cotune.cycle.budget.budget import Budget
from cotune.cycle.endpoints import ANSWERS, answer_limit, client_of, prices_of
from cotune.endpoint import AnswerCache, Prices, Usage, estimate_tokens
from cotune.endpoint.request_format import FORMS, RequestFormat, Said
from cotune.model.remote.model import RemoteModel
from cotune.prompt.messages import turns_of
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task

PATIENCE_S = 600.0
"""Maximum seconds for one question, including retries."""
Question = Sequence[Mapping[str, str]]
"""Chat messages that end with the question."""
Stop = Literal["", "calls", "tokens", "money", "time"]

WHY_STOPPED = {
    "calls": "teacher.calls is reached",
    "tokens": "teacher.tokens is reached",
    "money": "the rest of the budget is reserved for the search",
    "time": "half of the budget is reserved for the search",
}

_SHARE = 0.5
"""Maximum share of a budget of money or time for the teacher."""
_FIRST, _AT_ONCE = 8, 64
_MARGIN = 1.1
"""Factor on the expected cost, because rows may cost more than those before them."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of the questions to a teacher.

    Attributes:
        calls: maximum number of questions.
        tokens: maximum tokens of questions and answers.
        dollars: maximum cost of answers; infinite if the budget is not money.
        seconds: seconds after which no more questions are asked; infinite if the budget is not time.
    """

    calls: int
    tokens: int
    dollars: float = math.inf
    seconds: float = math.inf


@dataclass(frozen=True)
class Asked:
    """A teacher's answers.

    Attributes:
        said: answers to the first questions, in order.
        spent: tokens of all answers, including those kept from an earlier session, which also paid for them.
        stopped: the bound that left questions unasked; empty if there is none.
    """

    said: tuple[Said, ...]
    spent: Usage
    stopped: Stop


def bounds_of(config: RunConfig, budget: Budget, task: Task, seed: Prompt) -> Bounds:
    """The bounds of a run's teacher; of a time budget half; of a money budget what the smallest search leaves, at most half."""
    section = config.teacher
    if budget.kind == "time":
        return Bounds(section.calls, section.tokens, seconds=_SHARE * budget.amount)
    if budget.kind != "money":
        return Bounds(section.calls, section.tokens)
    rows = (*task.train, *task.dev)[:_AT_ONCE]
    asked = sum(estimate_tokens(turns_of(seed, row.fields, task.labels).messages) for row in rows) / len(rows)
    # Few answers reach the maximum length.
    answer = answer_limit(config, seed, task) / 2
    prices = prices_of(config.endpoint)
    row = prices.cost(Usage(round(asked), round(answer))) if prices else 0.0
    return Bounds(section.calls, section.tokens, max(0.0, min(_SHARE * budget.amount, budget.amount - least_rows(task) * row)))


def open_teacher(config: RunConfig, out: Path, *, tokens: int, schema: Mapping[str, Any] | None = None) -> RemoteModel:
    """Open the teacher, with its answers of at most ``tokens`` tokens kept in the run's folder.

    Raises:
        EndpointError: its key is missing.
    """
    section = config.teacher
    return RemoteModel(
        client_of(section, section.model, "teacher"),
        way=RequestFormat(0, tokens=tokens, form="" if schema is None else FORMS[0]),
        answers=AnswerCache(out / ANSWERS),
        prices=prices_of(section),
        patience=PATIENCE_S,
        schema=schema,
        keeps_on=True,
    )


def affordable(teacher: RemoteModel, questions: Sequence[Question], bounds: Bounds) -> float:
    """Estimated number of questions that the money suffices for, before the first; infinite if money does not count."""
    each = _cost_of(teacher)(_foreseen(teacher, questions)) / max(1, len(questions))
    return bounds.dollars / each if each > 0 else math.inf


def _foreseen(teacher: RemoteModel, questions: Sequence[Question]) -> Usage:
    """Upper estimate of the usage of questions, with answers of maximum length."""
    return Usage(sum(map(estimate_tokens, questions)), len(questions) * teacher.way.tokens)


def ask(teacher: RemoteModel, questions: Sequence[Question], bounds: Bounds) -> Asked:
    """Ask until a bound is reached; the usage of questions is estimated by those before them.

    Raises:
        EndpointError: the teacher cannot be asked; its answers so far are on disk.
    """
    said: list[Said] = []
    spent, guessed = Usage(), Usage()
    bounded = questions[: bounds.calls]
    stopped: Stop = ""
    started, cost = time.monotonic(), _cost_of(teacher)
    while len(said) < len(bounded) and not stopped:
        if said and time.monotonic() - started > bounds.seconds:
            stopped = "time"
            break
        part = bounded[len(said) : len(said) + (_AT_ONCE if said else _FIRST)]
        guess = _foreseen(teacher, part)
        tokens = guess.total * _ratio(spent.total, guessed.total) / len(part)
        dollars = cost(guess) * _ratio(cost(spent), cost(guessed)) / len(part)
        by_tokens = (bounds.tokens - spent.total) / max(1.0, tokens)
        by_money = (bounds.dollars - cost(spent)) / dollars if dollars > 0 else math.inf
        room = max(0, math.floor(min(by_tokens, by_money, len(part))))
        if room < len(part):
            stopped, part = ("money" if by_money < by_tokens else "tokens"), part[:room]
        if not part:
            break
        found, new, _ = teacher.say(part)
        said += found
        spent = sum((answer.usage for answer in new), spent)
        guessed += _foreseen(teacher, part)
    return Asked(tuple(said), spent, stopped or ("calls" if len(said) < len(questions) else ""))


def _ratio(spent: float, guessed: float) -> float:
    return _MARGIN * spent / guessed if guessed > 0 and spent > 0 else 1.0


def _cost_of(teacher: RemoteModel) -> Callable[[Usage], float]:
    return (teacher.prices or Prices(0.0, 0.0)).cost
