"""Runs by their folders: a list of them with their states, and the test answers of finished ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cotune.errors import InputError, no_run
from cotune.files import decode_json, known_json, load_json
from cotune.plain import fields, number, shipped
from cotune.report.terminal.result import interval_of
from cotune.run_files import CONFIG, JOURNAL, LOCK, SUMMARY, TEST_ROWS, run_folder

State = Literal["finished", "running", "stopped", "damaged"]
_DEEPEST = 3
_TAIL = 1 << 16
"""Number of bytes at a journal's end that are searched for its last whole line."""


@dataclass(frozen=True)
class ListedRun:
    """A run in a list.

    Attributes:
        model: the user's name of the model.
        metric: metric of ``score``; empty before the end.
        score: score of the bundle on the test; None before the end.
        ci: 95% interval of the score.
        n: number of test rows.
        seconds: active seconds so far.
        budget: the budget as the user gave it.
        state: ``finished``; ``running`` if a process works on it; ``stopped`` if the same command resumes it; ``damaged`` if
            files cannot be read.
    """

    folder: str
    task: str
    model: str
    metric: str
    score: float | None
    ci: tuple[float, float] | None
    n: int | None
    seconds: float | None
    budget: str
    state: State

    def to_json(self) -> dict[str, Any]:
        """The run as a JSON object."""
        return asdict(self)


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder and its subfolders, by name; the folder itself if it is a run's.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), hint="Name a folder with runs in it.")
    return [_listed(found) for found in _run_folders(run_folder(folder), _DEEPEST)]


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    inner: list[Path] = []
    # A folder that may not be entered, such as lost+found, says nothing of what is in it.
    with suppress(OSError):
        if (folder / JOURNAL).is_file():
            # Folders inside a run are not runs.
            yield folder
            return
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    for path in inner if depth else ():
        yield from _run_folders(path, depth - 1)


def _listed(folder: Path) -> ListedRun:
    stored, damaged = read_object(folder / CONFIG)
    config = fields(stored.get("config"))
    last = _last_event(folder / JOURNAL)
    summary: dict[str, Any] = {}
    ended = last is not None and last.get("kind") == "done"
    if ended:
        summary, broken = read_object(folder / SUMMARY)
        damaged = damaged or broken
    arm = shipped(summary)
    score = number(arm.get("score"))
    state: State = "finished" if ended else "running" if is_locked(folder) else "stopped"
    if damaged or last is None or (ended and score is None):
        state = "damaged" if state != "running" else state
    n = number(arm.get("n"))
    return ListedRun(
        folder=str(folder),
        task=str(summary.get("task") or config.get("name") or ""),
        model=_model(str(summary.get("model") or config.get("model") or "")),
        metric=str(summary.get("metric") or ""),
        score=score,
        ci=interval_of(arm),
        n=None if n is None else int(n),
        seconds=number(fields(summary.get("cost")).get("wall_s")) if ended else number((last or {}).get("active_s")),
        budget=str(config.get("budget") or ""),
        state=state,
    )


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's answers on the test.

    Attributes:
        inputs: texts of the input fields of each test row.
        references: right answers.
        answers: answers of the shipped arm.
        values: score of each answer in the run; None for labels.
        groups: group of each row; None if no row has a group.
    """

    folder: Path
    summary: Mapping[str, Any]
    inputs: tuple[tuple[str, ...], ...]
    references: tuple[str, ...]
    answers: tuple[str, ...]
    values: tuple[float, ...] | None
    groups: tuple[str, ...] | None


def read_finished(folder: Path) -> FinishedRun:
    """Read a finished run's answers on the test.

    Raises:
        InputError: the folder is not a run's, the run has not ended, or its files cannot be read.
    """
    folder = run_folder(folder)
    if not (folder / JOURNAL).is_file() and not (folder / SUMMARY).is_file():
        raise no_run(folder)
    if not (folder / SUMMARY).is_file():
        raise InputError(
            "the run has not ended, so its test has not been opened",
            where=str(folder),
            hint="Run the same cotune run command again, or end it with --finish.",
        )
    hint = "Copy the run's folder again from its source."
    summary, damaged = read_object(folder / SUMMARY)
    arm = fields(summary.get("best")).get("arm")
    if damaged or not isinstance(arm, str):
        raise InputError("the run's summary cannot be read", where=str(folder / SUMMARY), hint=hint)
    try:
        told = load_json(folder / TEST_ROWS)
        labels, rows = told["labels"], told["rows"]
        by_number = [row["gold"] for row in rows if isinstance(row["gold"], int)]

        def name(answer: Any) -> str:
            if answer is None:
                # None was generated, as under the metric likelihood.
                return ""
            return str(labels[answer] if len(by_number) == len(rows) else answer)

        groups = tuple(str(row.get("group") or f"row {i}") for i, row in enumerate(rows))
        return FinishedRun(
            folder=folder,
            summary=summary,
            inputs=tuple(tuple(map(str, row["input"].values())) for row in rows),
            references=tuple(name(row["gold"]) for row in rows),
            answers=tuple(name(row["answers"][arm]) for row in rows),
            values=None if labels else tuple(float(row["values"][arm]) for row in rows),
            groups=groups if any(row.get("group") for row in rows) else None,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"the run's answers to its test cannot be read ({type(error).__name__}: {str(error)[:80]})",
            where=str(folder / TEST_ROWS),
            hint=hint,
        ) from error


def _last_event(path: Path) -> dict[str, Any] | None:
    """The last whole line of a journal; reads only the file's end if possible."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            for reach in (_TAIL, size):
                stream.seek(max(0, size - reach))
                for line in reversed(stream.read().split(b"\n")):
                    with suppress(ValueError):
                        event = decode_json(line)
                        if isinstance(event, dict):
                            return event
    except OSError:
        return None
    return None


def is_locked(folder: Path) -> bool:
    """Whether a process is working in a run's folder; False if its lock cannot be read."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).is_file():
        return False
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def read_object(path: Path) -> tuple[dict[str, Any], bool]:
    """The JSON object in a file, and whether reading it failed."""
    found = known_json(path)
    return (found, False) if isinstance(found, dict) else ({}, True)


def _model(name: str) -> str:
    """The last part of an absolute path; other names are unchanged."""
    return Path(name).name if Path(name).is_absolute() else name
