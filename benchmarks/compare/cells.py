"""The finished cells, a line of JSON each: appended and fsynced, so that none is run twice and a kill loses none."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compare.protocol import Draw
from cotune.errors import BusyError, InputError
from cotune.files import slug, write_text

CELLS = "cells.jsonl"
DONE, FAILED, LIMIT, NOT_INSTALLABLE = "done", "failed", "limit", "not installable"
STATUSES = (DONE, FAILED, LIMIT, NOT_INSTALLABLE)

Place = tuple[str, Draw]
"""A set and a draw of it."""


@dataclass(frozen=True)
class Cell:
    """One peer on one draw of one set.

    Attributes:
        set: name of the set.
        kind: of its answers, ``label`` or ``json``.
        rows: labelled rows in all, or a class.
        per_class: which of the two.
        draw: number of the draw.
        peer: who.
        status: one of ``STATUSES``.
        reason: why it is not done; empty where it is.
        fingerprint: content hash of its labelled rows and test rows.
        labelled: how many labelled rows those are.
        tested: how many test rows.
        seconds: what it took, by name: ``all`` from outside; ``train``, ``predict`` and ``other`` (what only the comparison
            needs) as the peer tells them, of which ``train`` is what remains of ``all``.
        peak_mb: most memory.
        shipped_mb: size of what the peer would ship, without the model that it starts from.
        base_mb: size of that model.
        settings: what the peer was told and where its settings come from; for cotune also the run's first verdict, arms and
            gains.
        versions: of its packages.
        curve: for cotune the bundles that lay on disk: seconds, and what they answer.
        machine: where it ran, with the rate of matrix products before and after, in GFLOP/s (``gflops``).
        day: when.
    """

    set: str
    kind: str
    rows: int
    per_class: bool
    draw: int
    peer: str
    status: str
    reason: str = ""
    fingerprint: str = ""
    labelled: int = 0
    tested: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    shipped_mb: float = 0.0
    base_mb: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    day: str = ""

    @property
    def drawn(self) -> Draw:
        """The draw of its labelled rows."""
        return Draw(self.rows, self.per_class, self.draw)

    @property
    def key(self) -> str:
        """What makes it this cell."""
        return cell_key(self.set, self.drawn, self.peer)

    @property
    def place(self) -> Place:
        """What the cells of all peers on the same rows have in common."""
        return self.set, self.drawn


def cell_key(name: str, draw: Draw, peer: str) -> str:
    """``trec6/64/0/tfidf``."""
    return f"{name}/{draw.rows}{'-a-class' if draw.per_class else ''}/{draw.number}/{peer}"


class Cells:
    """The cells of a folder, of which one process at a time is the writer.

    Args:
        folder: where they lie; made where it is missing.

    Raises:
        BusyError: another process writes there.
        InputError: a line before the last cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._path = folder, folder / CELLS
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise BusyError(f"another harness works in {folder}. Wait for it, or choose another --out.") from error
        _cut_torn_line(self._path)
        self._known = {cell.key: cell for cell in read_cells(folder)}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Cell | None:
        """The finished cell of a key; None where it has not been run."""
        return self._known.get(key)

    def add(self, cell: Cell, answers: dict[str, Any] | None = None) -> None:
        """Keep a finished cell: first what it answered, then its line, both written through to the disk."""
        if answers is not None:
            write_text(answers_path(self._folder, cell.key), json.dumps(answers, ensure_ascii=False))
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(cell), ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._known[cell.key] = cell

    def close(self) -> None:
        """Let another process write."""
        self._lock.release()


def read_cells(folder: Path) -> list[Cell]:
    """The finished cells; of several with one key the last. A torn last line is passed over."""
    path = folder / CELLS
    if not path.is_file():
        return []
    found: dict[str, Cell] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            cell = Cell(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(f"line {number} is no cell ({error})", where=str(path), hint="Remove that line.") from error
        found[cell.key] = cell
    return list(found.values())


def read_answers(folder: Path, key: str) -> dict[str, Any]:
    """What a cell answered to the test rows."""
    found: dict[str, Any] = json.loads(answers_path(folder, key).read_text(encoding="utf-8"))
    return found


def answers_path(folder: Path, key: str) -> Path:
    """Where the answers of a cell lie."""
    return folder / "answers" / f"{slug(key.replace('/', '--'), 120)}.json"


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    held = path.read_bytes()
    whole = held.rfind(b"\n") + 1
    if whole < len(held):
        with path.open("r+b") as stream:
            stream.truncate(whole)
            stream.flush()
            os.fsync(stream.fileno())
