"""Names of the files in a run's folder, see docs/files.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotune.files import known_json
from cotune.plain import fields

JOURNAL = "journal.jsonl"
SUMMARY = "summary.json"
CONFIG = "config.json"
DEV_ROWS, TEST_ROWS = "dev_rows.json", "test_rows.json"
ROW_HASHES = "row_hashes.json"
REPORT, REPORT_ERROR = "report.html", "report-error.txt"
TRACKING = "tracking.json"
BUNDLE = "best"
ORDER = "order"
"""Key of the hash of the rows' order and numbers in a run's identity."""
LOCK = ".lock"
JOBS, WORKERS = "jobs", "workers.json"


def run_folder(folder: Path) -> Path:
    """The run of a folder: the folder itself, or its parent if it is a run's ``best``."""
    # Unlike Path.resolve, it takes a link that leads to itself.
    resolved = Path(os.path.realpath(folder))
    if (folder / JOURNAL).is_file() or (folder / CONFIG).is_file() or resolved.name != BUNDLE:
        return folder
    around = folder.parent if folder.name == BUNDLE else resolved.parent
    return around if (around / JOURNAL).is_file() else folder


def data_section(run: Path) -> Mapping[str, Any]:
    """The section ``data`` of a run's config; empty if it cannot be read."""
    return fields(fields(fields(known_json(run / CONFIG)).get("config")).get("data"))
