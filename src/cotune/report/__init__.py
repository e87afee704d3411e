"""Display of runs: the live view and final summary in a terminal, the HTML report, and its server."""

from __future__ import annotations

from cotune.report.terminal.advice import next_steps
from cotune.report.terminal.bar import python_view
from cotune.report.terminal.console import make_view
from cotune.report.terminal.lines import RunView
from cotune.report.terminal.notebook import notebook_html, summary_html, summary_line, tryout_html
from cotune.report.terminal.tryout import TRYOUT_CLOSING, comparison_text, tryout_heading, tryout_text
from cotune.report.terminal.verdict import print_verdict, quiet_text, verdict_text

__all__ = [
    "TRYOUT_CLOSING",
    "RunView",
    "comparison_text",
    "make_view",
    "next_steps",
    "notebook_html",
    "print_verdict",
    "python_view",
    "quiet_text",
    "summary_html",
    "summary_line",
    "tryout_heading",
    "tryout_html",
    "tryout_text",
    "verdict_text",
]
