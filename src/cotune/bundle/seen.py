"""Rows that a bundle's run has seen, whose scores say little about new rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotune.bundle.manifest import read_json
from cotune.errors import InputError, counted
from cotune.files import write_json
from cotune.run_files import ROW_HASHES, run_folder
from cotune.task.example import Example
from cotune.task.split import duplicate_key

_DIGITS = 12


@dataclass(frozen=True)
class Seen:
    """How many of some rows a run has seen.

    Attributes:
        learnt: number of rows that it was trained or selected on.
        tested: number of rows in its test.
    """

    learnt: int
    tested: int
    n: int

    def to_json(self) -> dict[str, int]:
        return {"learnt": self.learnt, "tested": self.tested}

    def warnings(self) -> list[str]:
        """Warnings, one sentence per kind."""
        told = []
        if self.learnt:
            told.append(f"{self._of(self.learnt)} used by this run for learning, so the score says little about new rows.")
        if self.tested:
            told.append(f"{self._of(self.tested)} in the test of this run: choosing by their score again invalidates the test.")
        return told

    def _of(self, count: int) -> str:
        return f"{count:,} of {'this' if self.n == 1 else 'these'} {counted(self.n, 'row')} {'was' if count == 1 else 'were'}"


def write_row_hashes(folder: Path, *, learnt: Iterable[str], tested: Iterable[str]) -> None:
    """Store the rows that a run learns from and tests on in its folder, each as the beginning of its ``duplicate_key``."""
    rows = {"learnt": learnt, "tested": tested}
    write_json(folder / ROW_HASHES, {name: sorted({key[:_DIGITS] for key in keys}) for name, keys in rows.items()})


def seen_rows(bundle: Path, rows: Sequence[Example]) -> Seen | None:
    """Count the rows that the run of a bundle has seen; None if its folder is missing or has no hashes."""
    if (known := _stored(run_folder(bundle))) is None:
        return None
    learnt, tested = known
    hashes = [_hash(row) for row in rows]
    return Seen(sum(one in learnt for one in hashes), sum(one in tested for one in hashes), len(hashes))


def seen_inputs(run: Path, rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]] | None:
    """The inputs among some that a run has learnt from or tested on; None if its folder has no hashes."""
    if (known := _stored(run)) is None:
        return None
    either = set.union(*known)
    return [row for row in rows if _hash(Example("", row, "")) in either]


def _stored(run: Path) -> tuple[set[str], set[str]] | None:
    """The hashes of a run's learnt and tested rows; None if there are none."""
    path = run / ROW_HASHES
    if not path.is_file():
        return None
    try:
        known = read_json(path)
        return set(known["learnt"]), set(known["tested"])
    except (InputError, KeyError, TypeError):
        return None


def _hash(row: Example) -> str:
    return duplicate_key(row)[:_DIGITS]
