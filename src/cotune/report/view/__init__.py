"""The report of a run, served on this machine alone and renewed while the run goes on."""

from __future__ import annotations

from cotune.report.view.serve import open_browser, view_run

__all__ = ["open_browser", "view_run"]
