"""How often a test's content was opened, by which runs: what is looked at often is no longer unseen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from cotune.cache import cache_folder
from cotune.errors import CotuneError
from cotune.files import write_json

_DAMAGED = ".damaged-"
_PATIENCE_S = 10.0


def enter_opening(content_hash: str, run: Path, arms: dict[str, str]) -> int | None:
    """Record that a run opens a test; returns how often other openings came before, None where that is not known.

    The ledger lies in the cache folder by the test's content, so a renamed or copied file is known again. One run that goes on
    with the same arms counts once. A file that cannot be read is set aside beside the new one. As long as it lies there, what
    it knew is missing, and the count is not known.

    Args:
        content_hash: of the test's rows.
        run: the run's folder.
        arms: the frozen arms, by name.
    """
    from filelock import FileLock

    path = cache_folder("ledger", create=False) / f"{content_hash}.json"
    mine = {"run": str(run.resolve()), "arms": arms}
    # A cache that cannot be read or written must not cost a run its end, but what it knows must not count as nothing either.
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
    """The entries; None where the file is damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError):
        return None
    sound = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if sound else None


def _set_aside(path: Path) -> None:
    number = sum(1 for _ in path.parent.glob(f"{path.stem}{_DAMAGED}*")) + 1
    path.replace(path.with_name(f"{path.stem}{_DAMAGED}{number}"))
