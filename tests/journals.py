"""Journals of given lines, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cotune.cycle.journal import CHAIN, _link
from cotune.run_files import JOURNAL


def write_journal(folder: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Write a folder's journal, with the hashes that belong to its lines."""
    before: str | None = None
    lines = []
    for event in events:
        before = _link(before, event)
        lines.append(json.dumps({**event, CHAIN: before}) + "\n")
    (folder / JOURNAL).write_text("".join(lines), encoding="utf-8")
