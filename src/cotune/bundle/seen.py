"""Rows that a bundle's run has seen: what it scores on them says little of new ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        learnt: rows that it learnt from or chose on.
        tested: rows of its test.
        n: rows in all.
    """

    learnt: int
    tested: int
    n: int

    def to_json(self) -> dict[str, int]:
        """A JSON object."""
        return {"learnt": self.learnt, "tested": self.tested}

    def warnings(self) -> list[str]:
        """What a user has to know, a sentence for each kind."""
        told = []
        if self.learnt:
            told.append(f"{self._of(self.learnt)} learnt from by this run, so the score says little of new rows.")
        if self.tested:
            told.append(f"{self._of(self.tested)} tested on by this run: choosing by their score again undoes the test.")
        return told

    def _of(self, count: int) -> str:
        return f"{count:,} of {'this' if self.n == 1 else 'these'} {counted(self.n, 'row')} {'was' if count == 1 else 'were'}"


def row_hashes(rows: Iterable[Example]) -> list[str]:
    """Hashes of what rows say, equal where they differ in case and spaces alone; sorted, each once."""
    return sorted({_hash(row) for row in rows})


def write_row_hashes(folder: Path, *, learnt: Iterable[Example], tested: Iterable[Example]) -> None:
    """Write which rows a run learnt from and which it tested on into its folder."""
    write_json(folder / ROW_HASHES, {"learnt": row_hashes(learnt), "tested": row_hashes(tested)})


def seen_rows(bundle: Path, rows: Sequence[Example]) -> Seen | None:
    """How many of some rows the run of a bundle has seen; None where its folder is not there or does not say.

    Args:
        bundle: its folder.
        rows: with the bundle's input fields.
    """
    path = run_folder(bundle) / ROW_HASHES
    if not path.is_file():
        return None
    try:
        known = read_json(path)
        learnt, tested = (set(known[name]) for name in ("learnt", "tested"))
    except (InputError, KeyError, TypeError):
        return None
    hashes = [_hash(row) for row in rows]
    return Seen(sum(one in learnt for one in hashes), sum(one in tested for one in hashes), len(hashes))


def _hash(row: Example) -> str:
    return duplicate_key(row)[:_DIGITS]
