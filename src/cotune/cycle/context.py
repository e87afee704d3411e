"""The run context: all parts of a run that act, such as the model, the journal and the budget."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from cotune.cycle.answer_search.training import Training
from cotune.cycle.answering.answers import Answers
from cotune.cycle.answering.base import Answering, LabelAnswering
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.row_costs import RowCosts
from cotune.cycle.budget.spending import Account, Spending, Stopwatch
from cotune.cycle.folder import is_asked_to_finish
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Watcher
from cotune.cycle.row_vectors import RowVectors
from cotune.cycle.workers.pool import NoWorkers, Workers
from cotune.embed import Embedder, HashedEmbedder, Neighbours, TextEmbedder
from cotune.errors import CotuneError
from cotune.evaluate.judge import Judge
from cotune.model.base import Capabilities, ModelBackend, Progress
from cotune.model.local import LocalModel
from cotune.task.example import Example, dev_in_order
from cotune.task.sealed import SealedTest
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings


class RunContext:
    """A task and a model, with the six parts that act for a run: journal, watcher, spending, answers, training and vectors.

    Each part keeps its own caches, which are not written to from outside.

    Args:
        model: the model, on this machine or behind an endpoint.
        journal: records all steps.
        costs: the budget, and prices of steps.
        answer_tokens: maximum tokens of a written answer; None takes it from the data.
        grader: the judge whose grades are the metric; None without a judge.
        embeds: creates the embedder of a model behind an endpoint; None embeds texts by their characters.
        stopwatch: stopwatch that ran while the model was loaded; None takes a new one.
        workers: workers that do some of the run's work; None is :class:`~cotune.cycle.workers.pool.NoWorkers`.
        readout: ``tune.readout`` of the config.

    Attributes:
        given: the task with all rows that the user gave.
        dev: dev rows in a seeded random order.
        train_sample: train rows in a seeded random order.
        spending: prices, payments and the remaining budget.
        answers: the model's outputs on rows.
        training: tuning of adapters on the model's outputs.
        vectors: vectors of rows, each embedded once.
    """

    task: Task
    dev: tuple[Example, ...]
    train_sample: tuple[Example, ...]

    def __init__(
        self,
        task: Task,
        model: ModelBackend,
        journal: Journal,
        costs: CostModel,
        folder: Path,
        tune: TuneSettings,
        seed: int,
        watcher: Watcher,
        answer_tokens: int | None = None,
        grader: Judge | None = None,
        embeds: Callable[[Progress | None], Embedder] | None = None,
        stopwatch: Stopwatch | None = None,
        workers: Workers | None = None,
        readout: str | None = None,
    ) -> None:
        model.chooser = model.chooser or Neighbours(cast(LocalModel, model) if model.capabilities.hidden_states else None)
        self.given, self.journal, self.watcher = task, journal, watcher
        self.workers = workers or NoWorkers(folder)
        self.folder, self.tune, self.seed = folder, tune, seed
        self._model, self._answer_tokens, self._grader, self._embeds = model, answer_tokens, grader, embeds
        self._costs, self._stopwatch, self._readout = costs, stopwatch or Stopwatch(), readout
        self._account = Account()
        self.start_with(task)

    def start_with(self, task: Task) -> None:
        """Start with the rows of a task; may be called again before the search, if there is no room for all rows."""
        model, journal, watcher = self._model, self.journal, self.watcher
        self.use_rows(task)
        answering = answering_for(task, model, limit=self._answer_tokens, judge=self._grader, readout=self._readout)
        rows = RowCosts(answering, self._costs, self.train_sample[:16], writes=task.measure.needs_answers)
        self.spending = Spending(self._costs, rows, journal, watcher, self._stopwatch, self._account)
        self.answers = Answers(task, answering, journal, self.spending, watcher, self._grader, self.workers)
        self.training = Training(
            answering, self.tune, journal, self.spending, watcher, self.folder, self.seed, self.train_sample
        )
        self.vectors = RowVectors(self._embedder, self._stopwatch)

    def limit_prompts(self, tokens: int) -> None:
        """Shorten rows whose prompt is longer than ``tokens`` tokens from now on; only before the search."""
        model = cast(LocalModel, self._model).with_max_tokens(tokens)
        model.chooser = Neighbours(model)
        self._model = model
        self.start_with(self.task)

    def keep_rows(self, rows: Collection[str], test: SealedTest | None = None) -> None:
        """Keep only some of the labelled rows, by id, and some of the test, because the budget has no room for more."""
        task = self.task
        train, dev = (tuple(row for row in part if row.id in rows) for part in (task.train, task.dev))
        self.task = replace(task, train=train, dev=dev, test=task.test if test is None else test)
        self.dev = tuple(row for row in self.dev if row.id in rows)
        self.train_sample = tuple(row for row in self.train_sample if row.id in rows)

    def use_rows(self, task: Task) -> None:
        """Use all rows of a task, also those that :meth:`keep_rows` left out."""
        self.task = task
        self.dev, self.train_sample = dev_in_order(task.dev, self.seed), _shuffled(task, self.seed)

    @property
    def answering(self) -> Answering:
        """The way in which the model answers the task's rows."""
        return self.answers.answering

    @property
    def choosing(self) -> LabelAnswering:
        """The answering as one that chooses, among labels or the values of closed fields.

        Raises:
            CotuneError: answers are generated, or come from an endpoint.
        """
        if not isinstance(self.answering, LabelAnswering):
            raise CotuneError("answers are not chosen among labels here")
        return self.answering

    @property
    def scorer(self) -> ModelBackend:
        """The model that answers."""
        return self.answering.model

    @property
    def can(self) -> Capabilities:
        """Capabilities of the model."""
        return self.scorer.capabilities

    @property
    def model(self) -> LocalModel:
        """The model on this machine: for its tokens, its states and its adapters.

        Raises:
            CotuneError: the model is behind an endpoint.
        """
        if not self.can.hidden_states:
            raise CotuneError(f"{self.scorer.name} answers behind an endpoint and cannot be tuned or inspected")
        return cast(LocalModel, self.scorer)

    def _embedder(self, progress: Progress | None) -> Embedder:
        """An embedder: by the model's hidden states if possible, otherwise by an endpoint's vectors or by characters."""
        if self.can.hidden_states:
            return TextEmbedder(self.model, progress=progress)
        return self._embeds(progress) if self._embeds else HashedEmbedder()

    def finish_asked(self) -> bool:
        """Whether the user asked to end the search; recorded, because the next steps depend on it."""
        return bool(self.journal.step("finish", "finish", lambda: is_asked_to_finish(self.folder)))


def _shuffled(task: Task, seed: int) -> tuple[Example, ...]:
    """Train rows in a random order, because files are often sorted by label."""
    order = np.random.default_rng([seed, 2]).permutation(len(task.train))
    return tuple(task.train[i] for i in order)
