"""Raw outputs of a candidate before scoring: label scores, or generated answers and losses of the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cotune.errors import DivergedError
from cotune.evaluate.decision import RAW, Decision, fit_bias, label_frequencies
from cotune.evaluate.noise import Noise
from cotune.evaluate.scoring import Evaluation, judged, unanswered, wrong_instead
from cotune.task.answered import Answered
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.task.values.output import Output

Floats = NDArray[np.float64]


class ModelOutputs(Protocol):
    """Outputs of a prompt and an adapter on some rows, in order. Slices select rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self: ...

    def plus(self, more: Self) -> Self:
        """This and what was given on further rows."""
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

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """The change of the share of right rows due to numerical noise; 0 if it was not measured."""
        ...


def best_rule(
    given: ModelOutputs, rows: Sequence[Example], rules: Sequence[Decision], task: Task
) -> tuple[Evaluation, Decision]:
    """The decision rule that is best on the rows by the metric, ties by log-loss, with the evaluation under it."""
    judged = [(given.judge(rows, rule, task), rule) for rule in rules]
    return max(judged, key=lambda pair: (pair[0].score, -pair[0].log_loss))


@dataclass(frozen=True, eq=False)
class LabelOutputs:
    """Label scores.

    Attributes:
        log_probs: ``[rows, labels]`` log-probabilities, in the order of the task's labels.
    """

    log_probs: Floats

    def __len__(self) -> int:
        return len(self.log_probs)

    def __getitem__(self, rows: slice) -> LabelOutputs:
        return LabelOutputs(self.log_probs[rows])

    def plus(self, more: LabelOutputs) -> LabelOutputs:
        """This and what was given on further rows."""
        return LabelOutputs(np.concatenate([self.log_probs, more.log_probs]))

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the chosen labels, and the log-loss of the right ones under the decision rule."""
        truth = label_indices(rows, task)
        log_probs = decision.log_probs(self.log_probs)
        losses = -log_probs[np.arange(len(truth)), truth]
        answers = [task.labels[i] for i in log_probs.argmax(axis=1)]
        return judged(Answered([row.output for row in rows], answers, task.output, rows), losses, task.measure)

    def calibrated(self, task: Task) -> Decision:
        """The bias that matches the mean prediction to the label shares of train."""
        return fit_bias(self.log_probs, label_frequencies(list(label_indices(task.train, task)), len(task.labels)))

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """As the margins between labels say."""
        return noise.floor(self.log_probs, decision)


@dataclass(frozen=True, eq=False)
class OwnLabelOutputs:
    """Label scores of an earlier bundle with its own labels. It is wrong on rows with any other label.

    Attributes:
        log_probs: ``[rows, known]`` log-probabilities.
        known: the labels, in score order.
    """

    log_probs: Floats
    known: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.log_probs)

    def __getitem__(self, rows: slice) -> OwnLabelOutputs:
        return OwnLabelOutputs(self.log_probs[rows], self.known)

    def plus(self, more: OwnLabelOutputs) -> OwnLabelOutputs:
        """This and what was given on further rows."""
        return OwnLabelOutputs(np.concatenate([self.log_probs, more.log_probs]), self.known)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the chosen labels; the log-loss is infinite for a row whose label is unknown to the bundle."""
        log_probs = decision.log_probs(self.log_probs)
        if not np.isfinite(log_probs).all():
            raise DivergedError("a log-loss is not finite")
        place = {label: i for i, label in enumerate(self.known)}
        losses = np.array([-log_probs[i, place[r.output]] if r.output in place else np.inf for i, r in enumerate(rows)])
        answers = tuple(self.known[i] for i in log_probs.argmax(axis=1))
        references = [row.output for row in rows]
        answered = Answered(references, wrong_instead(answers, references, task.labels), task.output, rows)
        evaluation = judged(answered, np.where(np.isfinite(losses), losses, 0.0), task.measure)
        return replace(evaluation, answers=answers, log_losses=losses)

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate: the bundle has its own rule."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """As the margins between labels say."""
        return noise.floor(self.log_probs, decision)


@runtime_checkable
class WithTexts(ModelOutputs, Protocol):
    """Outputs with generated answers, which a judge may grade."""

    @property
    def answered(self) -> tuple[str, ...]:
        """``[rows]`` the answers."""
        ...

    def with_grades(self, grades: Floats) -> Self:
        """The same with ``[rows]`` grades."""
        ...


@dataclass(frozen=True, eq=False)
class AnswerOutputs:
    """Generated answers, and the likelihood of the right ones.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the right answer in nats per token, including its stop token.
        texts: ``[rows]`` generated answers; None if none were generated.
        grades: ``[rows]`` grades of a judge; None without a judge.
    """

    losses: Floats
    texts: tuple[str, ...] | None = None
    grades: Floats | None = None

    def __len__(self) -> int:
        return len(self.losses)

    def __getitem__(self, rows: slice) -> AnswerOutputs:
        texts = None if self.texts is None else self.texts[rows]
        return AnswerOutputs(self.losses[rows], texts, None if self.grades is None else self.grades[rows])

    def plus(self, more: AnswerOutputs) -> AnswerOutputs:
        """This and what was given on further rows; without texts or grades where one of the two has none."""
        complete = self.texts is not None and more.texts is not None
        texts = (*(self.texts or ()), *(more.texts or ())) if complete else None
        return AnswerOutputs(np.concatenate([self.losses, more.losses]), texts, _all_grades(self.grades, more.grades))

    @property
    def answered(self) -> tuple[str, ...]:
        """The generated answers; empty if none were generated."""
        return self.texts or ()

    def with_grades(self, grades: Floats) -> AnswerOutputs:
        """The same with ``[rows]`` grades."""
        return replace(self, grades=grades)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the generated answers by the task's metric; the decision rule is not used."""
        if self.texts is None and task.measure.needs_answers:
            return unanswered(self.losses)
        # An earlier bundle may write answers that do not fit the task's schema.
        texts = task.output.as_scored(self.texts) if self.texts is not None else [""] * len(rows)
        grades = _grades_of_fitting(self.grades, self.answered, task.output)
        answered = Answered([row.output for row in rows], texts, task.output, rows, self.losses, grades)
        return replace(judged(answered, self.losses, task.measure), answers=self.answered)

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """Unknown margins: measured separately, see :class:`cotune.evaluate.answer_noise.AnswerNoise`."""
        return 0.0


@dataclass(frozen=True, eq=False)
class TextOutputs:
    """Answers of a model behind an endpoint, without likelihoods of the right ones.

    An answer that is not a value of the task's output, or does not fit its schema, is wrong.

    Attributes:
        texts: ``[rows]`` the answers.
        grades: ``[rows]`` grades of a judge; None without a judge.
    """

    texts: tuple[str, ...]
    grades: Floats | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: slice) -> TextOutputs:
        return TextOutputs(self.texts[rows], None if self.grades is None else self.grades[rows])

    def plus(self, more: TextOutputs) -> TextOutputs:
        """This and what was given on further rows; without grades where one of the two has none."""
        return TextOutputs((*self.texts, *more.texts), _all_grades(self.grades, more.grades))

    @property
    def answered(self) -> tuple[str, ...]:
        """The generated answers."""
        return self.texts

    def with_grades(self, grades: Floats) -> TextOutputs:
        """The same with ``[rows]`` grades."""
        return replace(self, grades=grades)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Score the answers by the task's metric; log-losses are infinite, meaning unknown."""
        texts = task.output.as_scored(self.texts)
        grades = _grades_of_fitting(self.grades, self.texts, task.output)
        answered = Answered([row.output for row in rows], texts, task.output, rows, None, grades)
        evaluation = judged(answered, np.zeros(len(rows)), task.measure)
        return replace(evaluation, answers=self.texts, log_losses=np.full(len(rows), np.inf))

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """Unknown for an endpoint."""
        return 0.0


def label_indices(rows: Sequence[Example], task: Task) -> NDArray[np.int64]:
    """The index of each row's label."""
    place = {label: i for i, label in enumerate(task.labels)}
    return np.array([place[row.output] for row in rows], dtype=np.int64)


def _grades_of_fitting(grades: Floats | None, texts: Sequence[str], output: Output) -> Floats | None:
    """The grades, 0 for answers that are not values of the output."""
    return grades if grades is None or not texts else np.where([output.fits(text) for text in texts], grades, 0.0)


def _all_grades(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else np.concatenate([first, second])
