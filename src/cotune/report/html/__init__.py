"""The report of a run: one HTML file that needs no network; also available during the run.

Pages contain texts from data and models, so all of them are escaped, and a content security policy allows only the page's own
script and style.
"""

from __future__ import annotations

from cotune.report.html.notebook_blocks import run_blocks
from cotune.report.html.page import render_report, write_report
from cotune.report.html.shell import Live

__all__ = ["Live", "render_report", "run_blocks", "write_report"]
