"""Which kind of answering a task and a model need."""

from __future__ import annotations

from cotune.cycle.answering.asked_writing import AskedWriting
from cotune.cycle.answering.base import Answering, AskedAnswering, LabelAnswering, OwnLabelAnswering
from cotune.cycle.answering.written import WrittenAnswering
from cotune.cycle.candidate import Own
from cotune.evaluate.judge import Judge
from cotune.model.local import LocalModel
from cotune.model.remote.model import RemoteModel
from cotune.task.task import Task


def answering_for(
    task: Task,
    model: LocalModel | RemoteModel,
    own: Own | None = None,
    limit: int | None = None,
    judge: Judge | None = None,
) -> Answering:
    """How this task's rows are answered by this model.

    Args:
        task: what is asked.
        model: who answers.
        own: what an earlier bundle answers with; None for the task's output.
        limit: tokens of a written answer at most; None takes it from the data.
        judge: who grades written answers; None where the metric asks nobody.

    Raises:
        InputError: the task's schema cannot be kept while writing.
    """
    if isinstance(model, RemoteModel):
        return AskedWriting(task, model, judge) if task.output.free else AskedAnswering(task, model)
    if own is not None and not own.output.free:
        return OwnLabelAnswering(task, model, own.output.labels)
    if not task.output.free:
        return LabelAnswering(task, model)
    return WrittenAnswering(task, model, limit if own is None else own.limit, judge, own.output if own is not None else None)
