"""Making a run's config from YAML, from ``key=value`` texts, from a bare data file, or from Python."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cotune.config.errors import kind_of, readable_error
from cotune.config.paths import DATA_KEYS, IN_MEMORY, PATH_KEYS, names_function, resolve_paths
from cotune.config.run import RunConfig
from cotune.config.yaml_text import YamlText, parse_yaml
from cotune.endpoint.server import REMOTE
from cotune.errors import InputError
from cotune.files import read_text

if TYPE_CHECKING:
    from cotune.task.values.output import OutputType

_TEXT_KEYS = frozenset(
    ("name", "prompt", "metric", "model", "start", "budget", "data.output", "data.group", "judge.rubric", "judge.agreement")
) | set(DATA_KEYS)
"""Keys whose values on the command line are taken literally, not as YAML: ``#`` may begin a column's name."""


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's YAML file. Paths in it are relative to its folder, paths in ``overrides`` to the current one.

    Args:
        path: the YAML file.
        overrides: settings such as ``tune.rank=8``, with YAML values; they override the file.

    Raises:
        InputError: the file is missing, the YAML is broken, a key is unknown or a value is invalid; the message names file,
            line and key.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        hint = "Rename it; for a file of rows, make a task in Python: cotune.Task.from_frame(FILE, input=..., output=...)."
        raise InputError("a task file must end in .yaml or .yml", where=str(path), hint=hint)
    return config_from_text(read_text(path, "the task file"), path, overrides)


def config_from_text(text: str, path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """A run's config from the text of a YAML file at ``path``; otherwise as :func:`load_config`."""
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict):
        kind = "empty" if document.value is None else f"a {kind_of(document.value)}, not keys and values"
        raise InputError(
            f"the file is {kind}",
            where=str(path),
            hint="Write at least data: {train: FILE, input: COLUMN, output: COLUMN}.",
        )
    values = document.value
    values.setdefault("name", path.stem)
    resolve_paths(values, path.parent)
    keys, values = _overridden(values, overrides)
    return _validated(values, str(path), document, keys)


def config_from_data(
    data_path: str | Path,
    *,
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    overrides: Iterable[str] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> RunConfig:
    """A run's config for a bare data file, with defaults for everything else.

    Args:
        data_path: file or ``hf://`` name of the labelled rows.
        input: column or columns that the model reads; may be None if a bundle to start from says so.
        output: column of the right answers; likewise.
        overrides: texts such as ``tune.rank=8``.
        more: further top-level keys whose names are arguments here, such as ``output`` with its type.
        settings: further top-level keys of the config, such as ``budget="2m"``.

    Raises:
        InputError: a key is unknown or a value is invalid.
    """
    train = str(data_path)
    named = {"input": input if input is None or isinstance(input, str) else list(input), "output": output}
    values: dict[str, Any] = {"name": task_name(train), **settings, **more}
    columns = {key: value for key, value in named.items() if value is not None}
    values["data"] = {**values.get("data", {}), "train": train, **columns}
    resolve_paths(values, Path.cwd())
    keys, values = _overridden(values, overrides)
    return _validated(values, "the settings", YamlText(None, {}), keys)


def config_in_memory(*, name: str, input: Sequence[str], output: str, **settings: Any) -> RunConfig:
    """A run's config for a task made in Python, whose rows are in memory; arguments as in :func:`config_from_data`."""
    data = {"train": IN_MEMORY, "input": list(input), "output": output}
    return _validated({"name": name, "data": data, **settings}, "the settings", YamlText(None, {}))


def _overridden(values: dict[str, Any], overrides: Iterable[str]) -> tuple[frozenset[str], dict[str, Any]]:
    """The keys that ``overrides`` set, and the values after applying them."""
    keys: set[str] = set()
    for text in overrides:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise InputError(
                f"{text!r} is not of the form key=value", where="command line", hint="Write for example tune.rank=8."
            )
        value: Any = raw
        if key not in _TEXT_KEYS and not (key == "data.input" and not raw.lstrip().startswith("[")):
            value = parse_yaml(raw, f"command line, {key}").value
        elif raw.strip() in ("", "null"):
            value = None
        place = values
        *sections, last = key.split(".")
        for depth, section in enumerate(sections):
            inner = place.setdefault(section, {})
            if inner is None:
                inner = place[section] = {}
            if not isinstance(inner, dict):
                above = ".".join(sections[: depth + 1])
                raise InputError(
                    f"{above!r} is a single value without keys", where=f"command line, {key}", hint=f"Write {above}=VALUE."
                )
            # Aliases in YAML are one object in several places.
            inner = place[section] = dict(inner)
            place = inner
        place[last] = value
        keys.add(key)
        # The value may be a whole section with paths in it.
        resolve_paths(values, Path.cwd(), [name for name in PATH_KEYS if f"{name}.".startswith(f"{key}.")])
    return frozenset(keys), values


def _validated(values: dict[str, Any], where: str, document: YamlText, overridden: frozenset[str] = frozenset()) -> RunConfig:
    # a section that is written but left empty means its defaults
    for section in ("output", "limit", "tune", "search", "evaluate", "endpoint", "proposer", "teacher", "judge", "engine"):
        if section in values and values[section] is None:
            del values[section]
    _fill_from_bundle(values)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(map(str, first["loc"]))
        above = any(f"{key}.".startswith(".".join((*path, ""))) for key in overridden) and path and path not in document.lines
        if above or any(".".join(path[:end]) in overridden for end in range(1, len(path) + 1)):
            where, document = "command line", YamlText(None, {})
        raise readable_error(first, where, document, RunConfig) from None
    if config.metric is not None and not names_function(config.metric):
        _check_metric(config, config.metric, "command line" if "metric" in overridden else where, document)
    return config


def _fill_from_bundle(values: dict[str, Any]) -> None:
    """Fill in input and label columns, metric and model from the bundle in ``start`` if they are missing, in place.

    Only the manifest is read; the bundle is checked before it is used. A bundle on the hub is fetched, and ``start`` then names
    its folder.

    Raises:
        InputError: ``start`` is not a bundle, its model is behind an endpoint, or its base model would have to be fetched from
            the hub.
    """
    start, data = values.get("start"), values.get("data")
    if not isinstance(start, str) or not start.strip() or not isinstance(data, dict):
        return
    from cotune.bundle.hub.fetch import is_on_hub
    from cotune.bundle.load import base_of, resolve_bundle
    from cotune.bundle.manifest import read_manifest

    folder = resolve_bundle(start)
    if is_on_hub(start):
        values["start"] = str(folder)
    manifest = read_manifest(folder)
    name = manifest.base_model.name
    if name.startswith(REMOTE):
        raise InputError(
            f"the bundle's answers come from {name}, behind an endpoint, and there are no weights to start from",
            where=start,
            hint="Start a new run with its prompt as --prompt.",
        )
    if values.get("model") is None:
        _check_here(base_of(manifest), start)
    columns = {"input": list(manifest.input_fields), "output": manifest.output_field}
    for place, defaults in ((data, columns), (values, {"metric": manifest.named_metric, "model": base_of(manifest)})):
        for key, value in defaults.items():
            if place.get(key) is None:
                place[key] = value


def _check_here(model: str, start: str) -> None:
    """Refuse a base model that is not on this machine, since a bundle of unknown origin may name a model of any size."""
    from cotune.model.loading.bundled import BUNDLED_MODEL, resolve_model
    from cotune.model.loading.folder import NotFetchedError

    if model.lower() == BUNDLED_MODEL or Path(model).exists():
        return
    try:
        resolve_model(model, fetch=False)
    except NotFetchedError as error:
        raise InputError(
            f"the bundle's base model: {error.what}",
            where=start,
            hint=f"If you want it, add --model {shlex.quote(model)} (in Python, model={model!r}).",
        ) from error
    except InputError:
        # Loading the model reports other errors.
        return


def _check_metric(config: RunConfig, metric: str, where: str, document: YamlText) -> None:
    """Refuse an unknown metric; the error names those that fit the type of the output."""
    from cotune.task.metrics.metric import metric_named

    line = document.lines.get(("metric",)) if where != "command line" else None
    where = f"{where}{f', line {line}' if line else ''}, metric"
    try:
        metric_named(metric, where)
    except InputError:
        metric_named(metric, where, _output_type(config))
        raise


def _output_type(config: RunConfig) -> OutputType | None:
    """The type of the output, from the config or the rows; None if neither tells."""
    output, data = config.output, config.data
    if output.type is not None:
        return output.type
    if output.labels is not None or output.json_schema is not None:
        return "label" if output.labels is not None else "json"
    if config.start is not None or data.train == IN_MEMORY or "://" in data.train:
        return None
    from cotune.task.reading.read import read_table
    from cotune.task.values.kinds.registry import guess_type

    with suppress(InputError):
        cells = read_table(data.train).filled(data.output)
        return guess_type(cells)[0] if cells else None
    return None


def task_name(source: str) -> str:
    """A name from the data: the file's, or its folder's if the file is named after its role."""
    path = Path(source.removeprefix("hf://").split(":")[0] if source.startswith("hf://") else source)
    plain = path.stem.lower() in ("train", "data", "rows") and path.absolute().parent.name
    return plain or path.stem or "task"
