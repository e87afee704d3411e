"""A server for commands, a tiny model and labelled rows, once for all tests of the cycle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cycle_runs import SETTINGS, Commands, Ended, labelled_rows, write_csv
from worker_runs import run

from cotune.cache import cache_folder
from tiny import save_tiny


@dataclass(frozen=True)
class Bench:
    """Where tiny runs happen.

    Attributes:
        commands: runs ``cotune`` commands in processes of their own.
        folder: for files of the test session.
        model: a tiny model's folder.
        rows: a labelled CSV file with columns ``text`` and ``label``.
    """

    commands: Commands
    folder: Path
    model: Path
    rows: Path

    def run(
        self,
        out: Path,
        *more: str,
        budget: str = "60ktok",
        seed: int = 4,
        at: tuple[str, str, int] | None = None,
        signal: str = "KILL",
        file_limit: int | None = None,
    ) -> Ended:
        """``cotune run`` on the labelled rows; the default seed's winner is a tuned prompt that the search found."""
        if not out.exists():
            # Else each run would be told that the ones before had opened its test.
            shutil.rmtree(cache_folder("ledger"))
        settings = ("--model", str(self.model), "--budget", budget, "--seed", str(seed), "--out", str(out))
        columns = ("--input", "text", "--output", "label")
        rest = (*settings, *SETTINGS, "limit.test=30", "limit.train=80", *more)
        return self.commands.run("run", str(self.rows), *columns, *rest, at=at, signal=signal, file_limit=file_limit)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("cycle")
    commands = Commands(folder / "output", shared_folder)
    yield Bench(commands, folder, save_tiny(folder / "model"), write_csv(folder / "rows.csv", labelled_rows()))
    commands.close()


@pytest.fixture(scope="session")
def whole(bench: Bench) -> Path:
    """The folder of a run that nothing interrupted."""
    out = bench.folder / "whole"
    ended = bench.run(out)
    assert ended.code == 0, ended.stderr
    return out


@pytest.fixture(scope="session")
def alone(bench: Bench) -> Path:
    """A run of labels, by probes, in one process."""
    out = bench.folder / "alone"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    return out
