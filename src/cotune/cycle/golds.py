"""Right answers against what the model will be able to write, before there is a model."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.model.writing import grammar_of
from cotune.task.task import Task


def check_golds(config: RunConfig, task: Task) -> Task:
    """Refuse a schema that a model on this machine cannot be held to; one behind an endpoint is held to it there.

    Args:
        config: names the model and where the schema comes from.
        task: the rows.

    Raises:
        InputError: the schema has a keyword that cannot be kept while writing; names it.
    """
    if config.remote_model is None:
        grammar_of(task.output, _schema_place(config))
    return task


def _schema_place(config: RunConfig) -> str:
    given = config.output.json_schema
    if given is None:
        return "the schema of the outputs"
    return f"output.schema, {given}" if isinstance(given, str) else "output.schema"
