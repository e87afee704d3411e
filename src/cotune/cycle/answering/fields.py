"""Answering of JSON whose parts are all closed: every value of every field is scored by a probe, and nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answering.base import LabelAnswering
from cotune.evaluate.answer_noise import AnswerNoise, compare_answers
from cotune.evaluate.decision import Decision
from cotune.evaluate.responses import FieldOutputs
from cotune.model.local import LocalModel
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.task.values.output import Output, label_output


class FieldAnswering(LabelAnswering):
    """Scores the values of a task's closed fields, see :mod:`cotune.task.values.closed`.

    Args:
        output: output of an earlier bundle; None for the task's.
    """

    rules = False

    def __init__(self, task: Task, model: LocalModel, output: Output | None = None) -> None:
        closed = (output or task.output).closed
        assert closed is not None
        # The values of all fields are scored in the place of labels.
        super().__init__(replace(task, output=label_output(closed.names)), model)
        self.closed, self.sizes, self._asked = closed, closed.sizes, task
        self._places: dict[str, tuple[int, ...] | None] = {}

    def targets(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        # The same rows are asked for with every prompt, and reading JSON takes long.
        for row in rows:
            if row.output not in self._places:
                self._places[row.output] = self.closed.places(row.output)
        places = [self._places[row.output] for row in rows]
        return np.array(places, dtype=np.int64).reshape(len(rows), len(self.sizes))

    def outputs(self, log_probs: NDArray[np.float64]) -> FieldOutputs:
        return FieldOutputs(log_probs, self.closed)

    def compared(
        self, first: NDArray[np.float64], second: NDArray[np.float64], rows: Sequence[Example], decision: Decision
    ) -> AnswerNoise:
        one, other = (self.outputs(scores).judge(rows, decision, self._asked) for scores in (first, second))
        return compare_answers(one, other)


def reads_fields(task: Task, model: LocalModel, readout: str | None) -> bool:
    """Whether a task's JSON is read off hidden states instead of being generated.

    This needs closed fields that hold every labelled row, a metric that reads answers, and a model whose layers are known. A
    config may ask for generation by the read-out ``words``.
    """
    closed = task.output.closed
    if closed is None or readout == "words" or not task.measure.needs_answers or task.measure.graded:
        return False
    if not (model.capabilities.hidden_states and model.capabilities.tune and model.reads_layers):
        return False
    return all(closed.places(row.output) is not None for row in chain(task.train, task.dev))
