"""Warm starts: the bundle that a run starts from, its checks, and the settings that the run takes from it."""

from __future__ import annotations

from typing import Any

from cotune.bundle.load import OpenedBundle, base_folder
from cotune.config import RunConfig
from cotune.config.task import Task as ConfiguredTask
from cotune.errors import InputError
from cotune.model.adapters.files import is_bare_probe, read_settings
from cotune.task.output_columns import listed_columns
from cotune.task.task import Task


def open_start(config: RunConfig) -> OpenedBundle | None:
    """Open and check the bundle that the config starts from; None if it names none.

    Raises:
        InputError: the folder is not a bundle, one of its files has changed, or ``model`` is not its model, byte for byte.
    """
    if config.start is None:
        return None
    bundle = OpenedBundle.read(config.start)
    base_folder(bundle, config.model)
    return bundle


def adopt(config: RunConfig, start: OpenedBundle | None) -> RunConfig:
    """The config with the bundle's settings: shape of its adapter, maximum length of prompts.

    Raises:
        InputError: such a setting was given and differs.
    """
    if start is None:
        return config
    tune: dict[str, Any] = {}
    # A probe on the base model has no weights whose shape must be kept.
    if start.adapter_folder is not None and not is_bare_probe(start.adapter_folder):
        shape = read_settings(start.adapter_folder)
        tune = {"rank": shape.rank, "alpha": float(shape.alpha), "target": shape.target}
    engine = {"max_tokens": start.manifest.max_tokens, "truncate": start.manifest.truncate}
    adopted: dict[str, Any] = {}
    for name, values in (("tune", tune), ("engine", engine)):
        section = getattr(config, name)
        usual = type(section)()
        for key, value in values.items():
            given = getattr(section, key)
            if given not in (value, getattr(usual, key)):
                raise InputError(
                    f"the bundle has {name}.{key}={value}, and here it is {given}",
                    where=f"{name}.{key}",
                    hint="Leave it out; the run uses the bundle's setting.",
                )
        adopted[name] = section.model_copy(update=values)
    return config.model_copy(update=adopted)


def start_task(config: RunConfig, start: OpenedBundle | None, task: Task | None = None) -> Task:
    """The rows, checked against the bundle that the run starts from, if any.

    ``task`` holds the rows if they have already been read, with the bundle's labels.

    Raises:
        InputError: the data is missing or broken, rows are replayed without a bundle to start from, or the bundle has another
            output type or other input fields.
    """
    known = start.known if start is not None else None
    found = ConfiguredTask.from_config(config, known=known) if task is None else task
    if start is not None and set(found.input_fields) != set(start.manifest.input_fields):
        # Compared once the rows are read, because a column beside them can change the name that a header gives.
        raise InputError(
            f"the bundle reads {_quoted(start.manifest.input_fields)}, and prompts would name the input of the new rows"
            f" {_quoted(found.input_fields)}",
            where="data.input",
            hint="Rename the columns of the new rows to the bundle's names, or start without the bundle.",
        )
    columns = () if start is None else start.manifest.output_columns
    if columns and listed_columns(config.data.output) and set(listed_columns(config.data.output)) != set(columns):
        raise InputError(
            f"the bundle answers with the columns {_quoted(columns)}, and the new rows have"
            f" {_quoted(listed_columns(config.data.output))}",
            where="data.output",
            hint="Rename the columns of the new rows to the bundle's names, or start without the bundle.",
        )
    if known is not None and known.output.kind is not found.output.kind:
        raise InputError(
            f"the bundle answers with the type {known.output.type}, and the outputs of the new rows are of the type"
            f" {found.output.type}",
            where="output.type",
            hint="Leave output.type out, or start without the bundle.",
        )
    if found.replayed and start is None:
        raise InputError(
            "old rows are to be replayed, but there is no bundle to start from",
            where="replay",
            hint="Name the bundle as start.",
        )
    return found


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
