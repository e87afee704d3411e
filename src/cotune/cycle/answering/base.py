"""Answering of a task's rows: by scoring labels, or by writing. All differences between types of output are here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.errors import CotuneError
from cotune.evaluate.answer_noise import AnswerNoise
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.noise import Noise, compare
from cotune.evaluate.responses import LabelOutputs, ModelOutputs, label_indices
from cotune.evaluate.stats.intervals import Interval, proportion_interval
from cotune.evaluate.stats.racing import loss_bound
from cotune.model.base import AskedModel, ModelBackend, Progress
from cotune.model.engine.trie import build_trie, label_paths
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, shared_prefix
from cotune.task.example import Example, groups_of
from cotune.task.task import Task
from cotune.task.values.chain import Chain
from cotune.tune.batches import TrainingRow, training_rows

ODD_ROWS = 3
"""Minimum number of rows of the small batches that noise is measured with."""


@dataclass(frozen=True)
class Reply:
    """Result and cost of a request to the model.

    Attributes:
        given: the model's outputs.
        tokens: number of computed tokens; those of a pass that ends at a probe's layer count by the share of layers that ran.
        saved: number of tokens saved by the shared prefix.
        truncated: number of rows whose text was shortened.
        cached: whether any output is from the cache, or any row's lower layers were known.
        dollars: cost, including a judge's grades; None if no endpoint was asked.
        unmatched: number of an endpoint's answers that name no label, or are not values of the task's output.
        written: number of ``tokens`` that were written one by one.
        judged: a judge's ``rows``, rows ``refused``, ``tokens`` and ``dollars``; empty without a judge.
        by_probe: whether a probe answered, so that no label words were processed.
    """

    given: ModelOutputs
    tokens: int
    saved: int
    truncated: int
    cached: bool
    dollars: float | None = None
    unmatched: int = 0
    written: int = 0
    judged: Mapping[str, float] = field(default_factory=dict)
    by_probe: bool = False


class Answering(ABC):
    """Answers a task's rows by a model; by default the scores are the answer, and nothing is written.

    Attributes:
        loss_bound: cap on a row's loss in a race, in nats.
        rules: whether a decision rule other than the raw one can be fitted.
        limit: maximum tokens of a written answer; 0 if none is written.
        noise_tokens: entry of the account for the tokens of :meth:`noise`.
    """

    task: Task
    model: ModelBackend
    loss_bound: float
    rules: bool
    limit = 0
    noise_tokens = "tokens_scored"

    @abstractmethod
    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """Outputs of a cheap pass over the rows, which suffice for a log-loss."""

    def write(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], given: ModelOutputs, progress: Progress
    ) -> Reply | None:
        """Answers in addition to the outputs ``given`` of :meth:`score`; None if these are the answers."""
        return None

    def both(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress
    ) -> tuple[Reply, Reply, float] | None:
        """Results of :meth:`score` and :meth:`write` with one reading of each prompt, and the seconds of the first.

        None if this would save nothing.
        """
        return None

    @abstractmethod
    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Token ids of the rows with all possible answers."""

    @abstractmethod
    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Token ids of the rows with their right answers."""

    def tokens_with_answer(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean number of own tokens of a row with its right answer, whose last token is not an input; and of the prefix."""
        rendered = self.training_rows(prompt, rows)
        prefix = shared_prefix([row.prompt_ids for row in rendered])
        return sum(len(row.prompt_ids) + len(row.answer_ids) - 1 for row in rendered) / len(rendered) - prefix, prefix

    @abstractmethod
    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean number of own tokens of a row in :meth:`score`, and number of tokens of the prefix."""

    def tokens_read_again(self, prompt: Prompt, rows: Sequence[Example], *, apart: bool) -> float:
        """Mean number of a row's tokens that writing reads again; more if it is done ``apart`` from :meth:`score`."""
        return 0.0

    def answer_tokens(self, *, tuned: bool) -> float:
        """Expected tokens of a written answer before any is known; ``tuned`` weights have learnt the length of answers."""
        return 0.0

    def odd_rows(self, count: int) -> int:
        """Number of rows of the small batches that noise is measured with, for ``count`` rows in all."""
        return ODD_ROWS

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[Noise | AnswerNoise, int] | None:
        """Differences between two passes over the same rows in different batches, and their tokens; None if not measured."""
        return None


class LabelAnswering(Answering):
    """Scores every label of every row.

    Attributes:
        labels: what is scored: the labels.
        sizes: number of values of each of several fields, see :mod:`cotune.probe.fields`; empty for labels.
        reads_words: whether the states of a row's words are read, not only that of the row.
        smooths: whether tuning smooths the right values, which blurs where a number lies (docs/probe-measurements.md).
    """

    model: LocalModel
    rules = True
    sizes: tuple[int, ...] = ()
    reads_words = False
    smooths = True

    def __init__(self, task: Task, model: LocalModel) -> None:
        self.task, self.model = task, model
        self.loss_bound = loss_bound(len(task.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.task.labels

    @property
    def most_values(self) -> int:
        """Number of labels, or of the values of the field with most of them."""
        return max(self.sizes, default=len(self.labels))

    def targets(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        """``[rows]`` places of the right labels; of several fields ``[states, fields]`` places of the right values."""
        return label_indices(rows, self.task)

    def strata(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        """``[rows]`` strata for folds: the labels, and a single stratum for several fields."""
        return self.targets(rows)

    def owners(self, rows: Sequence[Example]) -> NDArray[np.int64] | None:
        """The row of each state that is read, as ``[states]`` indices; None if each row has one state."""
        return None

    def states_of(self, rows: Sequence[Example], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the states of the rows at ``places``, which increase."""
        owners = self.owners(rows)
        return places if owners is None else np.flatnonzero(np.isin(owners, places))

    def outputs(self, log_probs: NDArray[np.float64], rows: Sequence[Example], chain: Chain | None = None) -> ModelOutputs:
        """Log-probabilities ``[states, labels]`` of rows as outputs; ``chain`` is that of their read-out, if it has one."""
        return LabelOutputs(log_probs)

    def answers(
        self, log_probs: NDArray[np.float64], rows: Sequence[Example], chain: Chain | None = None
    ) -> tuple[str, ...] | None:
        """The answers by several fields to rows; None if the labels' log-probabilities are the answer."""
        return None

    def held_out_score(self, log_probs: NDArray[np.float64], rows: Sequence[Example], correct: NDArray[np.float64]) -> float:
        """The score of a probe on rows that it has not seen: accuracy, or of several fields the metric.

        Args:
            log_probs: ``[rows, labels]``.
            correct: ``[rows]`` share of the draws of folds that were right, or of fields.
        """
        return float(correct.mean())

    def held_out(
        self,
        log_probs: NDArray[np.float64],
        rows: Sequence[Example],
        correct: NDArray[np.float64],
        answers: Sequence[str] | None = None,
    ) -> tuple[float, Interval]:
        """:meth:`held_out_score` and its 95% interval.

        ``answers`` are those of several fields, if they are known; None takes the likeliest by the log-probabilities alone.
        """
        return self.held_out_score(log_probs, rows, correct), proportion_interval(correct, groups=groups_of(rows))

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """Outputs are log-probabilities of the labels, ``[rows, labels]``."""
        found = self.model.score(prompt, [row.fields for row in rows], self.labels, adapter=adapter, progress=progress)
        given = self.outputs(found.log_probs, rows, self._chain(adapter))
        by_probe = self.model.adapters.probe(adapter) is not None
        return Reply(given, found.tokens, found.tokens_saved, found.truncated, bool(found.cached), by_probe=by_probe)

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Token ids of each row with all labels."""
        return self.model.renderer.render(prompt, [row.fields for row in rows], self.labels)

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Token ids of each row with its label."""
        return training_rows(self.render(prompt, rows), [int(i) for i in label_indices(rows, self.task)])

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean number of tokens of a row's text and the labels' trie, and number of tokens of the prefix.

        Without the shared-prefix engine, a row runs once for each label.
        """
        own, prefix = self.own_tokens(prompt, rows)
        (first,) = self.render(prompt, rows[:1])
        if not self.model.shared:
            paths = label_paths(first.completions)
            return own * len(paths) + sum(map(len, paths)), prefix
        return own + len(build_trie(first.completions).tree.tokens), prefix

    def own_tokens(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Mean number of own tokens of a row without the label words, and number of tokens of the prefix."""
        rendered = self.render(prompt, rows)
        prefix = shared_prefix([row.prompt_ids for row in rendered]) if self.model.shared else 0
        return sum(len(row.prompt_ids) + row.looked_up for row in rendered) / len(rendered) - prefix, prefix

    def noise(
        self, prompt: Prompt, adapter: str, rows: Sequence[Example], decision: Decision, *, odd: int, progress: Progress
    ) -> tuple[Noise | AnswerNoise, int] | None:
        """Differences of two passes; both run without the cache, whose scores are equal to the last bit and would hide them."""
        asked: tuple[Any, ...] = (prompt, [row.fields for row in rows], self.labels)
        whole, pieces = (
            self.model.score(*asked, adapter=adapter, batch_rows=size, fresh=True, progress=progress) for size in (None, odd)
        )
        chain = self._chain(adapter)
        return self.compared(whole.log_probs, pieces.log_probs, rows, decision, chain), whole.tokens + pieces.tokens

    def _chain(self, adapter: str) -> Chain | None:
        probe = self.model.adapters.probe(adapter)
        return None if probe is None else probe.chain

    def compared(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        rows: Sequence[Example],
        decision: Decision,
        chain: Chain | None = None,
    ) -> Noise | AnswerNoise:
        """The noise between two passes over rows, given the scores of both; ``chain`` as in :meth:`outputs`."""
        return compare(first, second, decision)


class OwnLabelAnswering(LabelAnswering):
    """Scores labels of an earlier bundle, which differ from the task's."""

    rules = False

    def __init__(self, task: Task, model: LocalModel, labels: tuple[str, ...]) -> None:
        super().__init__(replace(task, output=replace(task.output, labels=labels)), model)

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """Outputs are log-probabilities of the labels, ``[rows, labels]``."""
        reply = super().score(prompt, adapter, rows, progress)
        assert isinstance(reply.given, LabelOutputs)
        return replace(reply, given=replace(reply.given, own=self.task.labels))


class AskedAnswering(Answering):
    """Asks a model behind an endpoint for each row's label; such rows cannot be rendered, tuned or batched here."""

    model: AskedModel

    def __init__(self, task: Task, model: AskedModel) -> None:
        self.task, self.model = task, model
        self.loss_bound = loss_bound(len(task.labels))
        # A bias can be fitted to probabilities alone.
        self.rules = model.tells_probabilities

    def score(self, prompt: Prompt, adapter: str, rows: Sequence[Example], progress: Progress) -> Reply:
        """Outputs are log-probabilities of the labels, ``[rows, labels]``."""
        found = self.model.score(prompt, [row.fields for row in rows], self.task.labels, adapter=adapter, progress=progress)
        return Reply(
            LabelOutputs(found.log_probs), found.tokens, 0, 0, bool(found.cached), round(found.cost, 9), found.unmatched
        )

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        """Raises CotuneError: there are no token ids."""
        raise self._elsewhere()

    def training_rows(self, prompt: Prompt, rows: Sequence[Example]) -> list[TrainingRow]:
        """Raises CotuneError: there are no token ids."""
        raise self._elsewhere()

    def _elsewhere(self) -> CotuneError:
        return CotuneError(f"{self.model.name} answers behind an endpoint and cannot be tuned or inspected")

    def tokens_a_row(self, prompt: Prompt, rows: Sequence[Example]) -> tuple[float, int]:
        """Estimated tokens of question and answer; an endpoint shares no prefix."""
        return self.model.row_tokens(prompt, [row.fields for row in rows], self.task.labels), 0


def rules_of(answering: Answering, given: ModelOutputs, task: Task) -> tuple[Decision, ...]:
    """The decision rules to choose from: the raw one, and the calibrated one if there is one."""
    return (RAW, given.calibrated(task)) if answering.rules else (RAW,)
