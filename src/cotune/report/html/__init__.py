"""The report of a run: one offline HTML file that anyone can open, also while the run goes on.

Pages are made of text from outside, so all of it is escaped or set as text, and a content policy lets nothing load or run
but the page's own script and style.
"""

from __future__ import annotations

from cotune.report.html.notebook_blocks import run_blocks
from cotune.report.html.page import render_report, write_report
from cotune.report.html.shell import Live

__all__ = ["Live", "render_report", "run_blocks", "write_report"]
