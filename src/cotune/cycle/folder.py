"""A run's folder: whose it is, locked while a process works in it, and left as it was found where a new run is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.journal import cut_journal, read_journal
from cotune.cycle.kept import read_config, read_summary
from cotune.errors import BusyError, CotuneError, InputError
from cotune.files import cannot_write, make_folder, remove_stale, write_json, write_text
from cotune.run_files import CONFIG, JOBS, JOURNAL, LOCK

OPENING = frozenset({"engine", "sample", "start", "neighbours", "clock"})
"""Steps that come before anything is searched: what they tell is found again in seconds, once the model is loaded."""
_FINISH = "finish"
"""A file that asks the run to end its search; the run looks for it at each decision."""
_OPENED = (CONFIG, JOURNAL, JOBS, _FINISH, "scores.sqlite", "scores.sqlite-wal", "scores.sqlite-shm")
"""What a run has written by then."""
ASKED = "the user asked to finish"
"""Why such a search ended."""


class OtherRunError(InputError):
    """The folder holds a run of another config or of other rows."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder that this process has locked.

    Attributes:
        path: where it is.
        finished: the summary of the run in it; None where that has not ended.
        made: folders that were made for it, the innermost first.
        replaced: what is to be told of another run that stood in it and had searched nothing; empty where there was none.
    """

    path: Path
    finished: dict[str, Any] | None
    made: tuple[Path, ...]
    replaced: str = ""

    def take_back(self) -> None:
        """Remove what a new run wrote, where its input proves wrong, so that the next command may use the folder."""
        _remove_opening(self.path)
        (self.path / LOCK).unlink(missing_ok=True)
        for place in self.made:
            with suppress(OSError):
                place.rmdir()


def is_barely_begun(folder: Path) -> bool:
    """Whether a run was begun in a folder and ended before it had searched anything: nothing there is worth keeping."""
    try:
        # Answers of a teacher or a judge, which were paid for, stand in files beside the journal.
        if not (folder / CONFIG).is_file() or {path.name for path in folder.iterdir()} - {*_OPENED, LOCK}:
            return False
        return all(event["kind"] in OPENING for event in read_journal(folder / JOURNAL))
    except (OSError, CotuneError):
        return False


def _remove_opening(folder: Path) -> None:
    for name in _OPENED:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def open_folder(
    out: Path, config: RunConfig, identity: Mapping[str, object], command: str | None = None
) -> Iterator[RunFolder]:
    """Make and lock a run's folder, and check that it is this run's.

    Args:
        out: where.
        config: of the run.
        identity: content hashes that tell this run from another one besides its config.
        command: what the user typed, kept beside the config for advice; None where it is not known.

    Raises:
        InputError: it cannot be made, or holds another run.
        BusyError: another process works in it.
    """
    made = tuple(place for place in (out, *out.parents) if not place.exists())
    try:
        make_folder(out)
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be made ({error.strerror})", where=str(out), hint="Choose another --out."
        ) from error
    with _locked(out):
        replaced = ""
        if changes := _differences(out, config, identity):
            if not is_barely_begun(out):
                raise OtherRunError(
                    f"the folder holds a run that differs: {'; '.join(changes)}",
                    where=str(out),
                    hint="Choose another --out, or give the same settings to go on.",
                )
            # Another run was refused or stopped here before it had done anything; it must not keep this one from its folder.
            _remove_opening(out)
            replaced = f"{out} held another run, stopped before it had searched anything: it is replaced ({'; '.join(changes)})"
        finished = _finished(out)
        if not (out / CONFIG).is_file():
            write_json(out / CONFIG, {"config": config.model_dump(mode="json"), "identity": identity, "command": command})
        if finished is None:
            remove_stale(out)
        yield RunFolder(out, finished, made, replaced)


def cut_damaged(out: Path) -> Path | None:
    """Cut a run's damaged journal, while nobody else works there, as :func:`cotune.cycle.journal.cut_journal` does."""
    if not (out / JOURNAL).is_file():
        return None
    with _locked(out):
        return cut_journal(out)


def _differences(out: Path, config: RunConfig, identity: Mapping[str, object]) -> list[str]:
    """In what the run of a folder differs from this one; nothing where there is none yet."""
    path = out / CONFIG
    if not path.is_file():
        if read_journal(out / JOURNAL):
            raise InputError("the folder holds a journal without its config", where=str(out), hint="Choose another --out.")
        return []
    try:
        before, known = read_config(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("the run's config cannot be read", where=str(path), hint="Choose another --out.") from error
    changes = before.differences(config)
    if not changes and known != identity:
        changes = [
            f"{name}: {known.get(name)} -> {identity.get(name)}"
            for name in {**known, **identity}
            if known.get(name) != identity.get(name)
        ]
    return changes


def _finished(out: Path) -> dict[str, Any] | None:
    """The summary of the run in a folder where it has ended; one that cannot be read is made again from the journal."""
    found = read_summary(out)
    ended = found is not None and any(event["kind"] == "done" for event in read_journal(out / JOURNAL))
    return found if ended else None


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another process works in {out}. Wait for it, or choose another --out.") from error
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield
    finally:
        lock.release()


def ask_to_finish(folder: Path) -> None:
    """Ask the run of a folder, now at work or resumed later, to end its search at its next decision.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(folder / _FINISH, "")


def is_asked_to_finish(folder: Path) -> bool:
    """Whether the run of a folder was asked to end its search."""
    return (folder / _FINISH).is_file()
