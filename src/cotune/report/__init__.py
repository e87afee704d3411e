"""WHAT is shown: the live terminal view and the closing verdict."""

from __future__ import annotations

from cotune.report.advice import next_steps
from cotune.report.terminal import RunView, make_view
from cotune.report.tryout import tryout_text
from cotune.report.verdict import print_verdict, verdict_text

__all__ = ["RunView", "make_view", "next_steps", "print_verdict", "tryout_text", "verdict_text"]
