"""Comparison with the bundle that a run started from, for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.evaluate.words import difference_text, uncertainty_text
from cotune.plain import fields, harmless, items, number

PART_NAMES = {"all": "all rows", "old_labels": "rows of the old labels", "new_labels": "rows of the new labels"}
"""Parts of the test on which previous and new bundle are compared, with their names for people."""


def previous_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines on previous and new bundle for each part of the test; empty if the run started from no bundle."""
    previous = fields(summary.get("previous"))
    lines = [
        f"{name} ({part['n']}): {share(part, 'old')} with the old, {share(part, 'new')} with the new, {difference(part)}"
        for name, part in previous_parts(summary)
    ]
    return lines + [harmless(f"{remark[:1].upper()}{remark[1:]}.") for remark in map(str, items(previous.get("remarks")))]


def previous_parts(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and numbers of each part of the test on which previous and new bundle were compared."""
    parts = fields(fields(summary.get("previous")).get("parts"))
    named = [(name, fields(parts.get(key))) for key, name in PART_NAMES.items()]
    return [(name, part) for name, part in named if number(part.get("value")) is not None and number(part.get("n"))]


def share(part: Mapping[str, Any], which: str) -> str:
    """The share of right rows in percent."""
    finite = number(part.get(which))
    return "-" if finite is None else f"{100 * finite:.1f}%"


def difference(part: Mapping[str, Any]) -> str:
    """The difference in points with its interval and p-value."""
    return f"{difference_text(part.get('value'))} points ({uncertainty_text(part.get('ci'), part.get('p'))})"
