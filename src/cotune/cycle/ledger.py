"""How often a test's content was opened, by which runs: what is looked at often is no longer unseen."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

from cotune.errors import CotuneError
from cotune.files import write_json
from cotune.model.cache import cache_folder


def enter_opening(content_hash: str, run: Path, arms: dict[str, str]) -> int:
    """Record that a run opens a test; returns how often other openings came before.

    The ledger lies in the cache folder by the test's content, so a renamed or copied file is known again. One run that goes on
    with the same arms counts once.

    Args:
        content_hash: of the test's rows.
        run: the run's folder.
        arms: the frozen arms, by name.
    """
    from filelock import FileLock

    path = cache_folder("ledger", create=False) / f"{content_hash}.json"
    mine = {"run": str(run.resolve()), "arms": arms}
    others = 0
    # A cache that cannot be written must not cost a run its end.
    with contextlib.suppress(CotuneError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            entries = _read(path)
            others = sum({name: entry.get(name) for name in mine} != mine for entry in entries)
            if others == len(entries):
                write_json(path, [*entries, {**mine, "opened": datetime.now(UTC).isoformat(timespec="seconds")}])
    return others


def _read(path: Path) -> list[dict[str, object]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
