"""How results show themselves in a notebook and when printed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from cotune.report.terminal.narration import ARM_NAMES
from cotune.report.terminal.plain import fields, number, shipped
from cotune.report.terminal.verdict import verdict_text


def notebook_html(text: str) -> str:
    """A text as HTML that keeps its columns; nothing in it can become markup."""
    return f'<pre style="line-height:1.35;overflow-x:auto">{html.escape(text)}</pre>'


def summary_html(summary: Mapping[str, Any]) -> str:
    """The verdict of a run, for a notebook."""
    return notebook_html(verdict_text(summary))


def summary_line(summary: Mapping[str, Any]) -> str:
    """A run in a few words: ``best tuned 0.942 (0.918 to 0.959) on 500 test rows``."""
    arm = shipped(summary)
    named = ARM_NAMES.get(str(fields(summary.get("best")).get("arm")), "best tuned")
    score, ci = number(arm.get("score")), arm.get("ci")
    if score is None:
        return "no score yet"
    ends = f" ({ci[0]:.3f} to {ci[1]:.3f})" if isinstance(ci, (list, tuple)) and len(ci) == 2 else ""
    return f"{named} {score:.3f}{ends} on {arm.get('n')} {arm.get('split', 'test')} rows"
