"""Choice of the answering for a task and a model."""

from __future__ import annotations

from typing import cast

from cotune.cycle.answering.base import Answering, AskedAnswering, LabelAnswering, OwnLabelAnswering
from cotune.cycle.answering.fields import FieldAnswering, reads_fields
from cotune.cycle.answering.written import AskedWriting, WrittenAnswering
from cotune.cycle.candidate import Own
from cotune.evaluate.judge import Judge
from cotune.model.base import AskedModel, ModelBackend
from cotune.model.local import LocalModel
from cotune.task.task import Task


def answering_for(
    task: Task,
    model: ModelBackend,
    own: Own | None = None,
    limit: int | None = None,
    judge: Judge | None = None,
    readout: str | None = None,
) -> Answering:
    """The answering for a task and a model.

    Args:
        own: an earlier bundle's output; None for the task's output.
        limit: maximum tokens of a written answer; None takes it from the data.
        judge: grades written answers; None if the metric needs no judge.
        readout: ``tune.readout`` of the config.

    Raises:
        InputError: the task's schema cannot be enforced while writing.
    """
    written = (task if own is None else own).output.kind.written
    if not model.capabilities.likelihoods:
        asked = cast(AskedModel, model)
        return AskedWriting(task, asked, judge) if written else AskedAnswering(task, asked)
    local = cast(LocalModel, model)
    if (own is None and reads_fields(task, local, readout)) or (own is not None and written and not own.limit):
        return FieldAnswering(task, local, None if own is None else own.output)
    if written:
        return WrittenAnswering(task, local, limit if own is None else own.limit, judge, None if own is None else own.output)
    return LabelAnswering(task, local) if own is None else OwnLabelAnswering(task, local, own.output.labels)
