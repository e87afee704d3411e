"""How much of long rows is read, if a budget has no room for tuning on whole ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.fits import can_fit, fit_prompt
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.race import rows_embedded
from cotune.cycle.probe_search.sampling import LEAST_ROWS, LEAST_ROWS_A_LABEL, LEAST_TEST
from cotune.cycle.probe_search.splits import labelled_rows
from cotune.errors import DivergedError
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example

_SAMPLE = 64
"""Number of rows whose lengths are measured, drawn at random from the train rows."""
_ARMS = 3
"""Arms of the test for which there must be room: the seed prompt, the best prompt, and the tuned one."""
_PART_OF_RACE = 1.5
"""Reading of the first rows, and half as much again for another prompt: the seed prompt alone makes a bundle too."""
_SAVES = 0.9
"""Share of the tokens of whole rows above which shortening saves too little to be tried."""


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read at a length: the states, and the held-out log-loss of each row; None stands for whole rows."""

    length: int | None
    embedding: Embedding
    losses: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean log-loss in nats."""
        return float(self.losses.mean())


class RowLengths:
    """Chooses how many tokens of each row are read; ``length`` steps.

    The time of a pass grows with the length of rows. Some answers are known from the beginning of a row, and then a run that
    reads whole rows, and has no time left for racing prompts and tuning, is worse than one that reads a part. Others depend on
    all of it. So the first race's rows are read up to 128 tokens under the seed prompt, then up to twice as many, and so on, as
    long as the probe's held-out log-loss falls and there is time. If there is room for tuning at the shorter length only, the
    log-loss must fall by as much as tuning usually gains.

    Args:
        own: the seed prompt, and the user's further prompts, none with nearest demonstrations.
        most_epochs: ``tune.max_epochs`` of the config.
    """

    def __init__(self, context: RunContext, own: Sequence[Prompt], most_epochs: float) -> None:
        self._context, self._seed, self._most_epochs = context, own[0], most_epochs
        blank = Example("", dict.fromkeys(context.task.input_fields, "x"), "")
        prompts = [context.answering.render(prompt, [blank])[0] for prompt in own]
        self._fixed, self._longest = len(prompts[0].prompt_ids), max(len(row.prompt_ids) for row in prompts)
        """Tokens of the seed prompt without a row, and of the longest of the user's, which must fit the limit too."""
        self._prefix = prompts[0].start if context.model.shared else 0
        """Tokens of the seed prompt that run once for all rows."""
        sample = context.answering.render(own[0], context.train_sample[:_SAMPLE])
        self._own = np.array([len(row.prompt_ids) for row in sample]) - self._fixed
        """Tokens of each row's text."""
        self._limit = context.model.renderer.max_tokens

    @cached_property
    def _rows(self) -> tuple[Example, ...]:
        """The first race's first rows."""
        return labelled_rows(self._context)[: HEURISTICS.opening_rows(self._context.choosing.most_values)]

    def choose(self) -> Embedding | None:
        """Shorten the context's rows if that is of use; returns the states of the first rows that were read, if any.

        What is decided before anything was read depends on the budget and the planned speed alone, so that a resumed run
        decides alike.
        """
        lengths = [
            length
            for length in HEURISTICS.row_lengths
            if self._longest + length < self._limit and self._mean(length) <= _SAVES * self._mean(None)
        ]
        if not lengths or self._has_room(None) or not can_fit(self._seed, self._rows):
            return None
        if not self._may_read(lengths[0], self._amount):
            # The first race reads these rows, as far as there is time.
            facts = self._facts(lengths[0], None, kept=True, reads_on=False)
            self._context.journal.step("length", self._key(lengths[0]), lambda: {**facts, "text": self._sentence(lengths[0])})
            self._context.limit_prompts(self._most_tokens(lengths[0]))
            return None
        chosen: _Read | None = None
        ladder = [*lengths, None]
        for place, length in enumerate(ladder):
            read = self._read(length)
            if read is None:
                break
            value = self._decide(chosen, read, ladder[place + 1 : place + 2])
            if value["kept"]:
                chosen = read
            if not value["reads_on"]:
                break
        if chosen is None:
            # The first race says what is wrong with the states.
            self._context.limit_prompts(self._limit)
            return None
        self._context.limit_prompts(self._most_tokens(chosen.length))
        return chosen.embedding

    def _read(self, length: int | None) -> _Read | None:
        """Read the first rows up to a length and cross-fit a probe; None if states are not finite."""
        context = self._context
        context.workers.ready(context.journal.tell)
        context.limit_prompts(self._most_tokens(length))
        embedding = Embedding(context)
        try:
            states = embedding.states(self._seed, BASE, self._rows, "length")
        except DivergedError:
            return None
        fit = fit_prompt(context, self._seed, self._rows, states, embedding.layers, screening=True)
        return _Read(length, embedding, fit.losses)

    def _decide(self, before: _Read | None, read: _Read, following: Sequence[int | None]) -> dict[str, Any]:
        """Whether a length is kept, and whether the following one, if any, is tried; a ``length`` step."""

        def effect() -> dict[str, Any]:
            kept = before is None or self._is_worth_it(before, read)
            left = self._context.spending.left_within_step()
            reads_on = bool(kept and following and self._may_read(following[0], left))
            facts = self._facts(read.length, round(read.mean, 4), kept=kept, reads_on=reads_on)
            if reads_on:
                return facts
            if before is None:
                return {**facts, "text": self._sentence(read.length)}
            further = "whole" if read.length is None else f"up to {read.length}"
            compared = f": held-out log-loss {before.mean:.3f} up to {before.length} tokens, {read.mean:.3f} {further}"
            return {**facts, "text": self._sentence((read if kept else before).length, compared)}

        value: dict[str, Any] = self._context.journal.step("length", self._key(read.length), effect)
        return value

    def _key(self, length: int | None) -> list[Any]:
        return [self._context.task.fingerprint, length]

    def _facts(self, length: int | None, log_loss: float | None, *, kept: bool, reads_on: bool) -> dict[str, Any]:
        facts = {"row": length, "max_tokens": self._most_tokens(length), "log_loss": log_loss}
        return {**facts, "kept": kept, "reads_on": reads_on}

    def _is_worth_it(self, before: _Read, read: _Read) -> bool:
        gain = before.losses - read.losses
        error = float(gain.std(ddof=1)) / math.sqrt(len(gain))
        lost = self._has_room(before.length) and not self._has_room(read.length)
        needed = HEURISTICS.tuning_gain * before.mean if lost else 0.0
        return float(gain.mean()) - needed > HEURISTICS.length_errors * error

    def _may_read(self, length: int | None, left: float) -> bool:
        """Whether there is room for reading at a length and for the shortest run after it.

        Under a time budget this is a part of a race and the smallest test, because both may be cut then.
        """
        costs, task = self._context.spending.costs, self._context.task
        if costs.budget.kind == "time":
            rows = _PART_OF_RACE * len(self._rows) + 2 * min(task.test.n, HEURISTICS.least_test)
        else:
            raced = rows_embedded(HEURISTICS.least_pool, len(task.train) + len(task.dev), len(self._rows))
            rows = len(self._rows) + raced + 2 * task.test.n
        return costs.scoring(rows * self._tokens(length)) <= HEURISTICS.length_share * left

    def _has_room(self, length: int | None) -> bool:
        """Whether a small run fits the budget at a length: a race of the smallest pool, a tuning, and a test of some rows."""
        context = self._context
        costs, values = context.spending.costs, context.choosing.most_values
        rows = min(len(context.task.train) + len(context.task.dev), max(LEAST_ROWS, LEAST_ROWS_A_LABEL * values))
        opening = HEURISTICS.opening_rows(values)
        raced = HEURISTICS.other_prompts * rows_embedded(HEURISTICS.least_pool, rows, opening)
        tested = _ARMS * min(context.task.test.n, LEAST_TEST)
        # A trial's splits together learn from about as many rows as there are, of few rows from twice as many, and the final
        # tuning from all, each for half of the epochs.
        splits = HEURISTICS.few_folds - 1 if rows < HEURISTICS.few_rows else 1
        epochs = HEURISTICS.enough_epochs * HEURISTICS.epochs(rows, self._most_epochs)
        tuned = rows * epochs * (splits + 1) / 2
        read = costs.scoring(self._tokens(length) * (raced + tested + (splits + 1) * rows))
        learnt = costs.training(self._tokens(length) * tuned * HEURISTICS.window_share)
        return bool(read + learnt <= HEURISTICS.length_share * self._amount)

    @property
    def _amount(self) -> float:
        """The budget, without the time for loading the model."""
        budget = self._context.spending.budget
        return budget.amount - (HEURISTICS.loading if budget.kind == "time" else 0.0)

    def _tokens(self, length: int | None) -> float:
        """Mean tokens that a pass runs for a row."""
        return self._mean(length) + self._fixed - self._prefix

    def _mean(self, length: int | None) -> float:
        """Mean tokens of the rows' texts."""
        own = np.minimum(self._own, self._most_tokens(length) - self._fixed)
        return float(own.mean())

    def _most_tokens(self, length: int | None) -> int:
        return self._limit if length is None else self._longest + length

    def _sentence(self, length: int | None, compared: str = "") -> str:
        """What is chosen, in words."""
        if length is None:
            return f"rows are read whole, although the budget is small for their length{compared}"
        longer = (self._fixed + self._own > self._most_tokens(length)).mean()
        why = "as the budget is small for their length"
        return f"rows are read up to about {length} tokens ({longer:.0%} are longer), {why}{compared}"
