"""The server of a run's report, on this machine only; the page is refreshed during the run."""

from __future__ import annotations

from cotune.report.view.serve import open_browser, view_run

__all__ = ["open_browser", "view_run"]
