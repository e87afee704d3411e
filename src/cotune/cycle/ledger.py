"""Ledger of which runs opened a test and how often, because a test that is opened often is no longer unseen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cotune.cache import cache_folder
from cotune.errors import CotuneError
from cotune.files import load_json, write_json

_DAMAGED = ".damaged-"
_PATIENCE_S = 10.0


def enter_opening(test: str, run: Path, arms: dict[str, str]) -> int | None:
    """Record that a run opens a test; returns the number of other openings before, None if it is unknown.

    The ledger is in the cache folder and keyed by the content of the test that the user gave, so that a renamed or copied file
    is recognised, and so is another sample of its rows. A run that resumes with the same arms counts once. A damaged file is
    renamed and kept beside the new one; as long as it is there, the number is unknown.

    Args:
        test: content hash of all rows of the test (:attr:`SealedTest.given_hash`).
        run: folder of the run.
        arms: the frozen arms, by name.
    """
    from filelock import FileLock

    path = cache_folder("ledger", create=False) / f"{test}.json"
    mine = {"run": str(run.resolve()), "arms": arms}
    # A cache that cannot be read or written must not fail a run, but must not count as no openings either.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=_PATIENCE_S):
            entries = _read(path)
            if entries is None:
                _set_aside(path)
            known = entries or []
            others = sum({name: entry.get(name) for name in mine} != mine for entry in known)
            if others == len(known):
                write_json(path, [*known, {**mine, "opened": datetime.now(UTC).isoformat(timespec="seconds")}])
            return None if any(path.parent.glob(f"{path.stem}{_DAMAGED}*")) else others
    except (CotuneError, OSError):
        return None


def _read(path: Path) -> list[dict[str, object]] | None:
    """The entries; None if the file is damaged."""
    try:
        entries = load_json(path)
    except FileNotFoundError:
        return []
    except ValueError:
        return None
    sound = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if sound else None


def _set_aside(path: Path) -> None:
    number = sum(1 for _ in path.parent.glob(f"{path.stem}{_DAMAGED}*")) + 1
    path.replace(path.with_name(f"{path.stem}{_DAMAGED}{number}"))
