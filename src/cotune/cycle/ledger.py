"""How often a test's content was opened, by which runs: what is looked at often is no longer unseen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

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

    path = cache_folder("ledger") / f"{content_hash}.json"
    with FileLock(path.with_suffix(".lock")):
        entries = _read(path)
        mine = {"run": str(run.resolve()), "arms": arms}
        others = [entry for entry in entries if {name: entry.get(name) for name in mine} != mine]
        if len(others) == len(entries):
            write_json(path, [*entries, {**mine, "opened": datetime.now(UTC).isoformat(timespec="seconds")}])
    return len(others)


def _read(path: Path) -> list[dict[str, object]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
