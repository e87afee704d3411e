"""Raw outputs of a candidate before scoring: label scores, or generated answers and losses of the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cotune.evaluate.decision import RAW, Decision, fit_bias, label_frequencies
from cotune.evaluate.scoring import Evaluation, judged, unanswered, wrong_instead
from cotune.probe.fields import by_row, row_losses
from cotune.task.answered import Answered
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.task.values.output_fields import AnswerFields
from cotune.task.words import words_of

Floats = NDArray[np.float64]

_UNKNOWN_LOSS = 14.0
"""Log-loss in nats of a row whose right output has a value that no field knows: about that of a probability of a millionth."""


class ModelOutputs(Protocol):
    """Outputs of a prompt and an adapter on some rows, in order. Slices select rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self: ...

    def plus(self, more: Self) -> Self:
        """These outputs and those on further rows."""
        ...

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the outputs against the rows' right answers.

        Raises:
            DivergedError: a log-loss is not finite.
        """
        ...

    def calibrated(self, task: Task) -> Decision:
        """The decision rule calibrated on these inputs without their labels; the raw rule if there is nothing to fit."""
        ...


def best_rule(
    given: ModelOutputs, rows: Sequence[Example], rules: Sequence[Decision], task: Task
) -> tuple[Evaluation, Decision]:
    """The decision rule that is best on the rows by the metric, ties by log-loss, with the evaluation under it."""
    judged = [(given.judge(rows, rule, task), rule) for rule in rules]
    return max(judged, key=lambda pair: (pair[0].score, -pair[0].log_loss))


@dataclass(frozen=True, eq=False)
class _Scores:
    """Scores of rows, which can be cut and joined."""

    log_probs: Floats

    def __len__(self) -> int:
        return len(self.log_probs)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, log_probs=self.log_probs[rows])

    def plus(self, more: Self) -> Self:
        return replace(self, log_probs=np.concatenate([self.log_probs, more.log_probs]))


@dataclass(frozen=True, eq=False)
class LabelOutputs(_Scores):
    """Label scores.

    Attributes:
        log_probs: ``[rows, labels]`` log-probabilities, in the order of the labels.
        own: the labels of an earlier bundle, which is wrong on rows with any other label; empty for the task's labels.
    """

    own: tuple[str, ...] = ()

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the chosen labels; the log-loss is infinite for a row whose label an earlier bundle does not know."""
        labels, references = self.own or task.labels, [row.output for row in rows]
        place = {label: i for i, label in enumerate(labels)}
        log_probs = decision.log_probs(self.log_probs)
        losses = -log_probs[np.arange(len(rows)), [place.get(label, 0) for label in references]]
        answers = tuple(labels[i] for i in log_probs.argmax(axis=1))
        answered = Answered(references, wrong_instead(answers, references, task.labels), task.output, rows)
        unknown = np.array([label not in place for label in references])
        return replace(judged(answered, losses, task.measure), answers=answers, log_losses=np.where(unknown, np.inf, losses))

    def calibrated(self, task: Task) -> Decision:
        """The bias that matches the mean prediction to the label shares of train; an earlier bundle keeps its rule."""
        if self.own:
            return RAW
        return fit_bias(self.log_probs, label_frequencies(list(label_indices(task.train, task)), len(task.labels)))


@dataclass(frozen=True, eq=False)
class FieldOutputs(_Scores):
    """Scores of the values of several fields: closed ones of JSON, tags of copied ones, or a number's thresholds.

    Attributes:
        log_probs: ``[states, values]`` log-probabilities, of the values of each field in turn; a state is that of a row, or of
            one of its words.
        texts: the rows' texts.
        known: the answers, if they are not the likeliest ones by the fields; otherwise None.
    """

    fields: AnswerFields
    texts: tuple[str, ...]
    known: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> Self:
        ends = np.concatenate([[0], np.cumsum(self._counts)])
        states = [np.arange(ends[i], ends[i + 1]) for i in range(len(self))[rows]]
        chosen = np.concatenate([np.arange(0), *states])
        known = None if self.known is None else self.known[rows]
        return replace(self, log_probs=self.log_probs[chosen], texts=self.texts[rows], known=known)

    def plus(self, more: Self) -> Self:
        known = None if self.known is None or more.known is None else (*self.known, *more.known)
        return replace(super().plus(more), texts=(*self.texts, *more.texts), known=known)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        return self.fields.answers(self.log_probs, self.texts) if self.known is None else self.known

    @cached_property
    def _counts(self) -> list[int]:
        """Number of states of each row."""
        return states_a_row(self.fields, self.texts)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the answers by the task's metric. The log-loss is the mean over a row's states and fields."""
        right = [self.fields.places(row.output, text) for row, text in zip(rows, self.texts, strict=True)]
        losses, owners = np.full(len(rows), _UNKNOWN_LOSS), np.repeat(np.arange(len(rows)), self._counts)
        known = np.array([places is not None for places in right], dtype=np.bool_)
        if known.any():
            places = np.concatenate([one for one in right if one is not None])
            of_states = row_losses(self.log_probs[known[owners]], places)
            losses[known] = by_row(of_states, np.repeat(np.arange(known.sum()), np.array(self._counts)[known]))
        texts = self.answers
        references = [row.output for row in rows]
        evaluation = judged(Answered(references, task.output.as_scored(texts), task.output, rows), losses, task.measure)
        return replace(evaluation, answers=texts, log_losses=losses)

    def calibrated(self, task: Task) -> Decision:
        return RAW


@dataclass(frozen=True, eq=False)
class AnswerOutputs:
    """Generated answers, and the likelihood of the right ones.

    An answer that is not a value of the task's output, or does not fit its schema, is wrong.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the right answer in nats per token, including its stop token; None for a
            model behind an endpoint.
        texts: ``[rows]`` generated answers; None if none were generated.
        grades: ``[rows]`` grades of a judge; None without a judge.
    """

    losses: Floats | None
    texts: tuple[str, ...] | None = None
    grades: Floats | None = None

    def __len__(self) -> int:
        return len(self.losses if self.losses is not None else self.texts or ())

    def __getitem__(self, rows: slice) -> AnswerOutputs:
        return AnswerOutputs(
            None if self.losses is None else self.losses[rows],
            None if self.texts is None else self.texts[rows],
            None if self.grades is None else self.grades[rows],
        )

    def plus(self, more: AnswerOutputs) -> AnswerOutputs:
        """These outputs and those on further rows; without texts or grades where one of the two has none."""
        texts = None if self.texts is None or more.texts is None else (*self.texts, *more.texts)
        return AnswerOutputs(_joined(self.losses, more.losses), texts, _joined(self.grades, more.grades))

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the generated answers by the task's metric; unknown log-losses are infinite. The decision rule is not used."""
        losses = np.zeros(len(rows)) if self.losses is None else self.losses
        if self.texts is None and task.measure.needs_answers:
            return unanswered(losses)
        texts, grades = [""] * len(rows), self.grades
        if self.texts is not None:
            texts = task.output.as_scored(self.texts)
            if grades is not None:
                grades = np.where([task.output.fits(text) for text in self.texts], grades, 0.0)
        evaluation = judged(
            Answered([row.output for row in rows], texts, task.output, rows, self.losses, grades), losses, task.measure
        )
        known = losses if self.losses is not None else np.full(len(rows), np.inf)
        return replace(evaluation, answers=self.texts or (), log_losses=known)

    def calibrated(self, task: Task) -> Decision:
        return RAW


def states_a_row(fields: AnswerFields, texts: Sequence[str]) -> list[int]:
    """Number of states that are read of each row: one, or one of each word and of the whole row."""
    return [len(words_of(text)) + 1 if fields.words else 1 for text in texts]


def label_indices(rows: Sequence[Example], task: Task) -> NDArray[np.int64]:
    place = {label: i for i, label in enumerate(task.labels)}
    return np.array([place[row.output] for row in rows], dtype=np.int64)


def _joined(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else np.concatenate([first, second])
