"""Answering by several fields, of JSON or a number's thresholds: a probe scores each, and nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answering.base import LabelAnswering
from cotune.evaluate.answer_noise import AnswerNoise, compare_answers
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.responses import FieldOutputs, states_a_row
from cotune.evaluate.scoring import Evaluation, score_interval
from cotune.evaluate.stats.intervals import Interval
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow
from cotune.task.example import Example, groups_of
from cotune.task.task import Task
from cotune.task.values.chain import Chain
from cotune.task.values.output import Output, label_output
from cotune.task.values.tags import chained


class FieldAnswering(LabelAnswering):
    """Scores the values of a task's fields.

    See :mod:`cotune.task.values.closed`, :mod:`cotune.task.values.tags` and :mod:`cotune.task.values.scale`.

    Args:
        output: output of an earlier bundle; None for the task's.
    """

    rules = False

    def __init__(self, task: Task, model: LocalModel, output: Output | None = None) -> None:
        fields = (output or task.output).fields
        assert fields is not None
        most = model.longest_sequence
        if fields.words and most is not None and 2 * model.renderer.max_tokens > most:
            # A row's text stands among the model's positions twice.
            model = model.with_max_tokens(most // 2)
        # The values of all fields are scored in the place of labels.
        super().__init__(replace(task, output=label_output(fields.names)), model)
        self.fields, self.sizes, self._asked = fields, fields.sizes, task
        self.reads_words = fields.words
        self.smooths = task.output.kind.by_field and not fields.words

    def targets(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        places = [self.fields.places(row.output, row.text) for row in rows]
        return np.concatenate([np.zeros((0, len(self.sizes)), dtype=np.int64), *(one for one in places if one is not None)])

    def strata(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        return np.zeros(len(rows), dtype=np.int64)

    def owners(self, rows: Sequence[Example]) -> NDArray[np.int64] | None:
        if not self.fields.words:
            return None
        return np.repeat(np.arange(len(rows)), states_a_row(self.fields, [row.text for row in rows]))

    def render(self, prompt: Prompt, rows: Sequence[Example]) -> list[RenderedRow]:
        if not self.fields.words:
            return super().render(prompt, rows)
        return self.model.renderer.render_twice(prompt, [row.fields for row in rows], self.labels)

    def outputs(self, log_probs: NDArray[np.float64], rows: Sequence[Example], chain: Chain | None = None) -> FieldOutputs:
        return FieldOutputs(log_probs, chained(self.fields, chain), tuple(row.text for row in rows))

    def answers(self, log_probs: NDArray[np.float64], rows: Sequence[Example], chain: Chain | None = None) -> tuple[str, ...]:
        return self.outputs(log_probs, rows, chain).answers

    def judged(
        self, log_probs: NDArray[np.float64], rows: Sequence[Example], answers: Sequence[str] | None = None
    ) -> Evaluation:
        """Answers by the task's metric; None for the likeliest by the log-probabilities alone."""
        given = replace(self.outputs(log_probs, rows), known=None if answers is None else tuple(answers))
        return given.judge(rows, RAW, self._asked)

    def held_out_score(self, log_probs: NDArray[np.float64], rows: Sequence[Example], correct: NDArray[np.float64]) -> float:
        return self.judged(log_probs, rows).score

    def held_out(
        self,
        log_probs: NDArray[np.float64],
        rows: Sequence[Example],
        correct: NDArray[np.float64],
        answers: Sequence[str] | None = None,
    ) -> tuple[float, Interval]:
        task, references = self._asked, [row.output for row in rows]
        judged = self.judged(log_probs, rows, answers)
        interval = score_interval(judged, references, task.measure, task.output, seed=0, groups=groups_of(rows))
        return judged.score, interval

    def compared(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        rows: Sequence[Example],
        decision: Decision,
        chain: Chain | None = None,
    ) -> AnswerNoise:
        one, other = (self.outputs(scores, rows, chain).judge(rows, decision, self._asked) for scores in (first, second))
        return compare_answers(one, other)


def reads_fields(task: Task, model: LocalModel, readout: str | None) -> bool:
    """Whether a model chooses values of a task's fields, see :func:`chooses_fields`; its layers must be known."""
    known = model.capabilities.hidden_states and model.capabilities.tune and model.reads_layers
    return known and chooses_fields(task, readout)


def chooses_fields(task: Task, readout: str | None) -> bool:
    """Whether a task's JSON or numbers are read off hidden states by their fields instead of being generated.

    This needs fields that hold every labelled row, and a metric that reads answers. A config may ask for generation by the
    read-out ``words``. Numbers under a metric that counts exact answers only are generated, unless the config asks for a
    ``probe``.
    """
    measure, output = task.measure, task.output
    fields = output.fields
    if fields is None or readout == "words" or not measure.needs_answers or measure.graded:
        return False
    if measure.exact and not output.kind.by_field and readout != "probe":
        return False
    return all(fields.places(row.output, row.text) is not None for row in chain(task.train, task.dev))
