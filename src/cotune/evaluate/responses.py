"""What a candidate gave on rows, before it is judged: scores of labels, or written answers and what the right ones cost it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cotune.errors import DivergedError
from cotune.evaluate.decision import RAW, Decision, fit_bias, label_frequencies
from cotune.evaluate.noise import Noise
from cotune.evaluate.scoring import Evaluation, judged, unanswered
from cotune.task.answered import Answered
from cotune.task.example import Example
from cotune.task.task import Task

Floats = NDArray[np.float64]


class ModelOutputs(Protocol):
    """What a prompt and an adapter gave on some rows, in their order. Slices are of rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self: ...

    def plus(self, more: Self) -> Self:
        """This and what was given on further rows."""
        ...

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """Judge it against the rows' right answers.

        Raises:
            DivergedError: a log-loss is not finite.
        """
        ...

    def calibrated(self, task: Task) -> Decision:
        """The rule that these inputs suggest, their right answers unseen; the raw one where there is nothing to fit."""
        ...

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """How far the machine's noise moves the share of right rows; 0 where that is not measured."""
        ...


@dataclass(frozen=True, eq=False)
class LabelOutputs:
    """Scores of labels.

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
        """The label that the decision chooses, and the right label's log-loss under it."""
        truth = label_indices(rows, task)
        log_probs = decision.log_probs(self.log_probs)
        losses = -log_probs[np.arange(len(truth)), truth]
        answers = [task.labels[i] for i in log_probs.argmax(axis=1)]
        return judged(Answered([row.output for row in rows], answers, task.output, rows), losses, task.measure)

    def calibrated(self, task: Task) -> Decision:
        """The bias under which the mean prediction agrees with the label shares of train."""
        return fit_bias(self.log_probs, label_frequencies(list(label_indices(task.train, task)), len(task.labels)))

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """As the margins between labels say."""
        return noise.floor(self.log_probs, decision)


@dataclass(frozen=True, eq=False)
class OwnLabelOutputs:
    """Scores of labels that are not the task's: an earlier bundle's, unchanged. On a row of any other label it is wrong.

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
        """The label that the decision chooses; the log-loss is infinite on a row whose label is not known."""
        log_probs = decision.log_probs(self.log_probs)
        if not np.isfinite(log_probs).all():
            raise DivergedError("a log-loss is not finite")
        place = {label: i for i, label in enumerate(self.known)}
        losses = np.array([-log_probs[i, place[r.output]] if r.output in place else np.inf for i, r in enumerate(rows)])
        answers = tuple(self.known[i] for i in log_probs.argmax(axis=1))
        # A metric knows the task's labels alone: an answer that is none of them counts as one that is wrong.
        asked = set(task.labels)
        told = [a if a in asked else next(b for b in task.labels if b != r.output) for a, r in zip(answers, rows, strict=True)]
        answered = Answered([row.output for row in rows], told, task.output, rows)
        found = judged(answered, np.where(np.isfinite(losses), losses, 0.0), task.measure)
        return replace(found, answers=answers, log_losses=losses)

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate: its rule is its own."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """As the margins between labels say."""
        return noise.floor(self.log_probs, decision)


@runtime_checkable
class WithTexts(ModelOutputs, Protocol):
    """What holds written answers, which a judge may grade."""

    @property
    def answered(self) -> tuple[str, ...]:
        """``[rows]`` the answers."""
        ...

    def with_grades(self, grades: Floats) -> Self:
        """The same with ``[rows]`` grades."""
        ...


@dataclass(frozen=True, eq=False)
class AnswerOutputs:
    """Written answers, and the likelihood of the right ones.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the right answer in nats a token, its stop token counted.
        texts: ``[rows]`` what was written; None where nothing was asked to be.
        grades: ``[rows]`` what a judge says it is worth; None where none was asked.
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
        known = self.texts is not None and more.texts is not None
        texts = (*(self.texts or ()), *(more.texts or ())) if known else None
        return AnswerOutputs(np.concatenate([self.losses, more.losses]), texts, _all_grades(self.grades, more.grades))

    @property
    def answered(self) -> tuple[str, ...]:
        """What was written; nothing where nothing was asked to be."""
        return self.texts or ()

    def with_grades(self, grades: Floats) -> AnswerOutputs:
        """The same with ``[rows]`` grades."""
        return replace(self, grades=grades)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """The written answers by the task's metric; there is nothing to decide."""
        if self.texts is None and task.measure.needs_answers:
            return unanswered(self.losses)
        texts = self.texts if self.texts is not None else ("",) * len(rows)
        answered = Answered([row.output for row in rows], texts, task.output, rows, self.losses, self.grades)
        return judged(answered, self.losses, task.measure)

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """Margins between whole answers are not known; see :class:`cotune.evaluate.answer_noise.AnswerNoise`."""
        return 0.0


@dataclass(frozen=True, eq=False)
class TextOutputs:
    """Answers that a model behind an endpoint wrote, which tells nothing of the right ones' likelihood.

    An answer that is no value of the task's output, or does not fit its schema, is wrong, whatever else could be read in it.

    Attributes:
        texts: ``[rows]`` what was written.
        grades: ``[rows]`` what a judge says it is worth; None where none was asked.
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
        """What was written."""
        return self.texts

    def with_grades(self, grades: Floats) -> TextOutputs:
        """The same with ``[rows]`` grades."""
        return replace(self, grades=grades)

    def judge(self, rows: Sequence[Example], decision: Decision, task: Task) -> Evaluation:
        """The answers by the task's metric; log-losses are infinite, for they are not known."""
        fit = [task.output.fits(text) for text in self.texts]
        told = [text if fits else "" for text, fits in zip(self.texts, fit, strict=True)]
        grades = None if self.grades is None else np.where(fit, self.grades, 0.0)
        answered = Answered([row.output for row in rows], told, task.output, rows, None, grades)
        found = judged(answered, np.zeros(len(rows)), task.measure)
        return replace(found, answers=self.texts, log_losses=np.full(len(rows), np.inf))

    def calibrated(self, task: Task) -> Decision:
        """Nothing to calibrate."""
        return RAW

    def noise_floor(self, noise: Noise, decision: Decision) -> float:
        """An endpoint's batches are its own affair."""
        return 0.0


def label_indices(rows: Sequence[Example], task: Task) -> NDArray[np.int64]:
    """Index of each row's label."""
    place = {label: i for i, label in enumerate(task.labels)}
    return np.array([place[row.output] for row in rows], dtype=np.int64)


def _all_grades(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else np.concatenate([first, second])
