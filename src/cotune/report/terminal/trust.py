"""Sentences on the reliability of a result: numerical noise and the data checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.errors import counted
from cotune.plain import fields, items, number, one_line

_MOST_WARNINGS = 6


def noise_sentence(noise: Mapping[str, Any]) -> str:
    """A sentence on the variation of scores with the batch, from summary or journal; empty if not known."""
    largest, mean, rows = (number(noise.get(name)) for name in ("largest", "mean", "n"))
    flipped = int(number(noise.get("flipped")) or 0)
    if rows is not None and "counts" in noise:
        return f"in other batches {flipped} of {counted(int(rows), 'written answer')} differ"
    if largest is None or mean is None or rows is None:
        return ""
    return (
        f"in other batches log-probabilities differ by {largest:.2g} at most and {mean:.2g} on average, "
        f"and {flipped} of {counted(int(rows), 'answer')} flip"
    )


def data_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines on truncated rows and on warnings of the data checks; mere notes are shown on the page only."""
    cut = int(number(summary.get("truncated")) or 0)
    lines = [f"{counted(cut, 'row')} did not fit into the model's context under some prompt and lost their end"] if cut else []
    findings = [fields(item) for item in items(fields(summary.get("data")).get("findings"))]
    warned = [one_line(f.get("message"), 400) for f in findings if f.get("severity") == "warning" and f.get("message")]
    more = len(warned) - _MOST_WARNINGS
    return lines + warned[:_MOST_WARNINGS] + ([f"and {more} more, in the report"] if more > 0 else [])
