"""The public functions of cotune: the command line's features, for use from Python."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune import config as _config
from cotune.config import RunConfig
from cotune.errors import InputError
from cotune.files import absolute, expanded, slug
from cotune.task.task import Task

if TYPE_CHECKING:
    from cotune.bundle import Predictor
    from cotune.cycle.compare import Tryout
    from cotune.cycle.progress import View
    from cotune.cycle.run import Result

_OF_THE_TASK = ("data", "input", "output")
_OF_A_TASK_OBJECT = ("name", "metric", "limit", "start")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress warnings of other libraries that are meant for their own developers."""
    with warnings.catch_warnings():
        # tqdm in a notebook without ipywidgets; peft about a name that transformers will remove.
        warnings.filterwarnings("ignore", message="IProgress not found")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield


def run(
    task: Task | RunConfig | str | Path,
    *,
    out: str | Path | None = None,
    budget: str | None = None,
    model: str | Path | None = None,
    seed: int | None = None,
    start: str | Path | None = None,
    prompts: Sequence[str] = (),
    executor: str | None = None,
    workers: int | None = None,
    storage: str | None = None,
    view: View | None = None,
    **settings: Any,
) -> Result:
    """Tune a prompt and a model together; called again with the same ``out``, it resumes an interrupted run.

    Args:
        task: a :class:`cotune.Task`, the path of a ``task.yaml``, or a :class:`cotune.RunConfig`.
        out: the run's folder; created if missing. None takes ``runs/NAME`` by the task's name, or ``runs/NAME-2`` and so on if
            that holds a run with other settings or rows.
        budget: such as ``90s``, ``10m`` or ``2Mtok``; None uses the task's budget, or ``10m`` if it has none.
        model: ``smollm2-135m`` (bundled), a folder or a hub id; None uses the task's model, or the bundled one if it names
            none.
        seed: seed of all random choices; None uses the task's seed, or 0 if it has none.
        start: an earlier run, its bundle, or ``hf://org/name@revision``, to start from with new rows; None uses what the task
            says. For a :class:`cotune.Task`, pass it to the constructor, since the bundle decides how rows are read.
        prompts: texts of your own prompts, which compete with the seed prompt.
        executor: executor of a search for labels: ``processes``, ``ray`` or ``ray:ADDRESS``; None uses this process
            alone. A script must then call this under ``if __name__ == "__main__":``.
        workers: number of workers; None chooses it by processors and memory.
        storage: URL that fsspec knows, such as ``s3://bucket/path``, below which workers store results and adapters until the
            run ends; None uses the run's folder, which all nodes must then see.
        view: receives the progress; None shows a progress bar, in a notebook or on standard error. ``cotune.Quiet()`` shows
            nothing.
        settings: further keys of the config; a section is a mapping and changes only the keys in it, as in
            ``tune={"rank": 8}``. They override ``task``.

    Returns:
        The run's folder and the content of its ``summary.json``.

    Raises:
        InputError: config, data, model or budget are wrong, or ``out`` holds another run.
        BusyError: another process works in ``out``.
    """
    started, paths = time.monotonic(), {"model": model, "start": start}
    overrides = {"budget": budget, "seed": seed, **{key: None if path is None else str(path) for key, path in paths.items()}}
    settings |= {key: value for key, value in overrides.items() if value is not None}
    config, rows = _resolved(task, settings)
    with quiet_libraries():
        from cotune.cycle.folder import OtherRunError
        from cotune.cycle.progress import Quiet
        from cotune.cycle.run import run as run_cycle
        from cotune.executor import Choice
        from cotune.report.terminal.bar import python_view
        from cotune.tracking import tracked, tracker_of

        choice = Choice.named(executor, workers, storage)
        tracker = tracker_of(config.tracking)
        for folder in _folders(out, config.name):
            shown, ended = None if view is not None else python_view(), False
            try:
                with tracked(tracker, config, folder, view or shown or Quiet()) as watched:
                    result = run_cycle(
                        config,
                        folder,
                        task=rows,
                        prompts=tuple(prompts),
                        view=watched,
                        executor=choice,
                        started=started,
                    )
                ended = True
                return result
            except OtherRunError:
                if out is not None:
                    raise
            finally:
                if shown is not None:
                    shown.close(failed=not ended)
    raise AssertionError("folders never end")


def _folders(out: str | Path | None, name: str) -> Iterator[Path]:
    """Possible folders of a run, in the order in which they are tried."""
    if out is not None:
        yield expanded(out)
        return
    folder = Path("runs") / slug(name)
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def load(bundle: str | Path, **settings: Any) -> Predictor:
    """Load a bundle for prediction.

    Args:
        bundle: a run's folder, its bundle, or ``hf://org/name@revision``.
        settings: keyword arguments of :func:`cotune.bundle.load`, such as ``device``, ``threads`` or ``base``.

    Raises:
        InputError: it is not a bundle, a file is missing or was changed, or its base model cannot be found.
    """
    with quiet_libraries():
        from cotune.bundle import load as load_bundle

        return load_bundle(bundle, **settings)


def try_prompt(
    folder: str | Path,
    text: str,
    *,
    task: Task | None = None,
    metric: str | None = None,
    endpoint: str | None = None,
    key_env: str | None = None,
    judge_endpoint: str | None = None,
    judge_key_env: str | None = None,
    base: str | Path | None = None,
) -> Tryout:
    """Compare your own prompt with a run's winner on the same dev rows.

    Args:
        folder: the run's folder.
        text: the prompt, with each input field as ``{field}``.
        task: the rows, for a run whose task was made in Python.
        metric: ``FILE.py:FUNCTION`` of the run, which will be executed. Required unless you have run the same file in the same
            place before, since a folder from elsewhere must not execute code.
        endpoint: URL of the model that rows may be sent to; required if it is not on this machine.
        key_env: environment variable with the key for ``endpoint``.
        judge_endpoint: URL of the judge, likewise.
        judge_key_env: environment variable with the judge's key.
        base: folder of the base model if it moved; ``"hub"`` allows fetching model and rows from the hub.

    Returns:
        The scores of both prompts, their paired difference with its interval, and the rows that they answer differently.

    Raises:
        InputError: there is no such run, it has no winner yet, its data or model have changed, the text lacks an input field,
            or the folder names a file to execute, a server or a key that the arguments do not allow.
    """
    with quiet_libraries():
        from cotune.cycle.compare import try_prompt as try_in_cycle
        from cotune.cycle.permissions import Permissions

        allowed = Permissions(metric, endpoint, key_env, judge_endpoint, judge_key_env, base)
        return try_in_cycle(expanded(folder), text, task=task, permissions=allowed)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a ``task.yaml``; paths in it are relative to its folder.

    Args:
        path: the file.
        overrides: settings such as ``tune.rank=8``, with YAML values; they override the file.

    Raises:
        InputError: the file is missing, the YAML is broken, a key is unknown or a value is invalid; the message names file,
            line and key.
    """
    return _config.load_config(expanded(path), overrides)


def _resolved(task: Task | RunConfig | str | Path, settings: Mapping[str, Any]) -> tuple[RunConfig, Task | None]:
    """The config with the settings applied, and the task's rows if it already has them."""
    if isinstance(task, Task) and "start" in settings:
        from cotune.bundle.load import resolve_bundle

        if absolute(resolve_bundle(settings["start"])) == task.start:
            settings = {key: value for key, value in settings.items() if key != "start"}
    fixed = (*_OF_THE_TASK, *(_OF_A_TASK_OBJECT if isinstance(task, Task) else ()))
    if wrong := [key for key in fixed if key in settings]:
        raise InputError(
            f"{wrong[0]!r} is part of the task",
            where="run",
            hint=f"Give it to Task.from_frame({wrong[0]}=...)." if isinstance(task, Task) else "Set it in the task file.",
        )
    if isinstance(task, Task):
        made = _config.config_in_memory(
            name=task.name,
            input=task.input_fields,
            output=task.output_field,
            metric=task.metric,
            start=task.start,
            **settings,
        )
        return _with_settings(made, {}), task
    if isinstance(task, (str, Path)):
        # The keys that a file may omit depend on the bundle, whose model may be another folder here.
        named = ("start", "model") if "start" in settings else ()
        task = load_config(task, [f"{name}={settings[name]}" for name in named if name in settings])
    if not isinstance(task, RunConfig):
        raise InputError(
            f"a {type(task).__name__} is not a task",
            where="run",
            hint="Give a cotune.Task, a RunConfig, or the path of a task.yaml; "
            "cotune.Task.from_frame(rows, input=..., output=...) makes a task of rows.",
        )
    return _with_settings(task, settings), None


def _with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A copy of a config with some keys changed: validated again, with absolute paths and with defaults computed again."""
    values = _merged(config.model_dump(mode="json", exclude_unset=True), settings)
    data, answers = values.pop("data"), {"output": values.pop("output")} if "output" in values else {}
    return _config.config_from_data(
        data["train"],
        input=data["input"],
        output=data["output"],
        more=answers,
        data=data,
        **values,
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
