"""A run's folder: checked, locked while a process works in it, and left unchanged if a new run is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.endpoints import ANSWERS
from cotune.cycle.journal import cut_journal, read_journal
from cotune.cycle.kept import read_config, read_summary
from cotune.endpoint.answers import holds_answers
from cotune.errors import CotuneError, InputError, shown_names
from cotune.files import locked, make_folder, remove_stale, write_json, write_text
from cotune.run_files import (
    BUNDLE,
    CONFIG,
    DEV_ROWS,
    JOBS,
    JOURNAL,
    LOCK,
    ORDER,
    REPORT,
    REPORT_ERROR,
    ROW_HASHES,
    SUMMARY,
    TEST_ROWS,
    TRACKING,
)

OPENING = frozenset({"engine", "workers", "sample", "start", "neighbours", "clock"})
"""Steps before the search, which are repeated within seconds after the model is loaded."""
_FINISH = "finish"
"""A file that asks the run to end its search; the run checks for it at each decision."""
_OPENED = (JOURNAL, JOBS, _FINISH, "scores.sqlite", "scores.sqlite-wal", "scores.sqlite-shm", ROW_HASHES, CONFIG)
"""What a run may have written before its search; the config last, so that what is left of a removal still counts as a run."""
_RESULTS = (SUMMARY, DEV_ROWS, TEST_ROWS, REPORT, REPORT_ERROR, TRACKING, BUNDLE)
_OWN = (*_RESULTS, "adapters", "states", "checkpoints", *_OPENED)
"""What a run replaces or removes, apart from answers that were paid for, which it only adds to."""
_ANSWERS = (ANSWERS, f"{ANSWERS}-wal", f"{ANSWERS}-shm")
_PARTS = {
    "data": "the labelled rows, or how they are read",
    "prompts": "the prompts",
    "cotune": "the version of cotune",
    "start": "the bundle to start from",
    "unlabelled": "the unlabelled rows",
    "judge": "the graded answers",
}
"""What a key of a run's identity stands for, in messages."""
ASKED = "the user asked to finish"
"""Reason for the end of such a search."""


class OtherRunError(InputError):
    """The folder holds a run of another config or of other rows."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder that this process has locked.

    Attributes:
        finished: summary of the run in it; None if the run has not ended.
        new: whether the run begins here, so that nothing of its names was there before.
        made: folders that were created for it, the innermost first.
        replaced: message on another run in it that was replaced because it had not searched anything; otherwise empty.
    """

    path: Path
    finished: dict[str, Any] | None
    new: bool
    made: tuple[Path, ...]
    replaced: str = ""

    def take_back(self) -> None:
        """Remove the files of a new run whose input is wrong, so that the next command may use the folder."""
        _remove(self.path, _OWN if self.new else _OPENED)
        (self.path / LOCK).unlink(missing_ok=True)
        for place in self.made:
            with suppress(OSError):
                place.rmdir()


def is_barely_begun(folder: Path) -> bool:
    """Whether the run in a folder ended before its search, so that nothing is worth keeping."""
    try:
        others = {path.name for path in folder.iterdir()} - {*_OPENED, LOCK}
        # Answers of an endpoint were paid for.
        if (folder / ANSWERS).is_file() and not holds_answers(folder / ANSWERS):
            others -= set(_ANSWERS)
        if not (folder / CONFIG).is_file() or others:
            return False
        return all(event["kind"] in OPENING for event in read_journal(folder / JOURNAL))
    except (OSError, CotuneError):
        return False


def _remove(folder: Path, names: Sequence[str]) -> None:
    answers = () if holds_answers(folder / ANSWERS) else _ANSWERS
    for name in (*answers, *names):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def open_folder(
    out: Path, config: RunConfig, identity: Mapping[str, object], command: str | None = None
) -> Iterator[RunFolder]:
    """Create and lock a run's folder, and check that it does not hold another run.

    ``identity`` holds content hashes that identify the run, together with its config. ``command`` is the user's command line,
    stored for advice; None if unknown.

    Raises:
        InputError: the folder cannot be created, or holds another run, or files of other origin that a run would replace.
        BusyError: another process works in the folder.
    """
    # Bundles import torch; the command looks into folders before that.
    from cotune.bundle.manifest import MANIFEST

    if (out / MANIFEST).is_file():
        raise InputError("the folder is a bundle, which a run would damage", where=str(out), hint="Choose another --out.")
    made = tuple(place for place in (out, *out.parents) if not place.exists())
    try:
        make_folder(out)
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be made ({error.strerror})", where=str(out), hint="Choose another --out."
        ) from error
    with locked(out / LOCK, f"another process works in {out}. Wait for it, or choose another --out."):
        replaced = ""
        if changes := _differences(out, config, identity):
            if not is_barely_begun(out):
                raise OtherRunError(
                    f"the folder holds a run that differs: {'; '.join(changes)}",
                    where=str(out),
                    hint="Choose another --out, or give the same settings to resume it.",
                )
            # Another run was refused or stopped here before its search; it must not block this run.
            _remove(out, _OPENED)
            replaced = f"{out} held another run, which stopped before its search; it is replaced ({'; '.join(changes)})"
        finished = _finished(out)
        new = not (out / CONFIG).is_file()
        if new:
            _check_free(out)
            write_json(out / CONFIG, {"config": config.model_dump(mode="json"), "identity": identity, "command": command})
        if finished is None:
            remove_stale(out)
        yield RunFolder(out, finished, new, made, replaced)


def cut_damaged(out: Path) -> Path | None:
    """Lock a run's folder and cut its damaged journal, see :func:`cotune.cycle.journal.cut_journal`."""
    if not (out / JOURNAL).is_file():
        return None
    with locked(out / LOCK, f"another process works in {out}. Wait for it, or choose another --out."):
        return cut_journal(out)


def _check_free(out: Path) -> None:
    """Refuse a folder without a run in which something has a name that a run uses: the run would replace or remove it."""
    # A journal that holds anything was refused before.
    if taken := [name for name in _OWN if name != JOURNAL and os.path.lexists(out / name)]:
        raise InputError(
            f"the folder holds no run, but {shown_names(taken)}, which a run would replace or remove",
            where=str(out),
            hint="Choose another --out.",
        )


def _differences(out: Path, config: RunConfig, identity: Mapping[str, object]) -> list[str]:
    """Differences between the run in a folder and this one; empty if there is no run yet."""
    path = out / CONFIG
    if not path.is_file():
        if (out / JOURNAL).is_file() and (out / JOURNAL).stat().st_size:
            raise InputError("the folder holds a journal without its config", where=str(out), hint="Choose another --out.")
        return []
    try:
        before, known = read_config(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the run's config cannot be read ({error})", where=str(path), hint="Choose another --out.") from error
    if changes := before.differences(config):
        return changes
    # Folders of earlier versions have no hash of the order.
    names = [name for name in {**known, **identity} if name != ORDER or ORDER in known]
    different = [name for name in names if known.get(name) != identity.get(name)]
    if different == [ORDER]:
        return ["the rows are the same, but their order or their line numbers differ"]
    told = {name: f"{known.get(name)} -> {identity.get(name)}" for name in different if name != ORDER}
    return [f"{name}: {_PARTS[name]} ({hashes})" if name in _PARTS else f"{name}: {hashes}" for name, hashes in told.items()]


def _finished(out: Path) -> dict[str, Any] | None:
    """The summary of an ended run; None otherwise, and if it cannot be read, so that it is written again."""
    found = read_summary(out)
    ended = found is not None and any(event["kind"] == "done" for event in read_journal(out / JOURNAL))
    return found if ended else None


def ask_to_finish(folder: Path) -> None:
    """Ask the run in a folder, now or when it is resumed, to end its search at its next decision.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(folder / _FINISH, "")


def withdraw_finish(folder: Path) -> None:
    """Take back what :func:`ask_to_finish` asked, if the run has not seen it."""
    (folder / _FINISH).unlink(missing_ok=True)


def is_asked_to_finish(folder: Path) -> bool:
    """Whether the run in a folder was asked to end its search."""
    return (folder / _FINISH).is_file()
