"""Names of the files in a run's folder, see docs/files.md."""

from __future__ import annotations

JOURNAL = "journal.jsonl"
SUMMARY = "summary.json"
CONFIG = "config.json"
DEV_ROWS, TEST_ROWS = "dev_rows.json", "test_rows.json"
REPORT, REPORT_ERROR = "report.html", "report-error.txt"
BUNDLE = "best"
LOCK = ".lock"
