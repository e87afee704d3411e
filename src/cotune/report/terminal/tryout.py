"""The text output of ``cotune try``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotune.errors import counted
from cotune.evaluate.words import difference_text, signed, uncertainty_text
from cotune.plain import one_line

if TYPE_CHECKING:
    from cotune.evaluate.tried import Comparison, Tried

_WIDTH, _ANSWER_WIDTH = 70, 200
_ROWS = 8
"""Flipped rows to show for each set of weights."""
TRYOUT_CLOSING = (
    "Dev rows chose the winner, so it starts with an advantage here. To let yours compete: cotune run TASK --prompt FILE."
)


def tryout_text(tried: Tried) -> str:
    """A prompt compared with the winner: the difference with its interval, and rows that flip."""
    return "\n\n".join([tryout_heading(tried), *(comparison_text(one, _ROWS) for one in tried.comparisons), TRYOUT_CLOSING])


def tryout_heading(tried: Tried) -> str:
    """The prompts and rows of the comparison."""
    heading = f"Your prompt against the winner on {counted(tried.n, 'dev row')}."
    if tried.by_probe:
        heading += "\n\nBoth are read by a probe that is fitted to the train rows by one rule."
    if tried.unfilled:
        heading += f"\n\n{tried.unfilled}."
    return heading


def comparison_text(comparison: Comparison, rows: int) -> str:
    """One set of weights: both scores, their difference with its interval, and some of the rows that flip."""
    lines = [
        f"{comparison.weights} weights: yours {comparison.mine:.3f}, winner {comparison.winner:.3f}, "
        f"difference {difference_text(comparison.difference)} points "
        f"({uncertainty_text((comparison.low, comparison.high), comparison.p)}): {comparison.reading}",
    ]
    if comparison.log_loss_difference is not None:
        lines.append(f"  log-loss {signed(comparison.log_loss_difference, 3)} nats a row (below 0 is better)")
    if comparison.truncated:
        cut = counted(comparison.truncated, "row")
        lines.append(f"  {cut} lost a part of the text under your prompt: longer than the limit on prompts (engine.max_tokens)")
    shown = comparison.flipped[:rows]
    if shown:
        cut = f", the first {len(shown)}" if len(shown) < len(comparison.flipped) else ""
        lines.append(f"  {counted(len(comparison.flipped), 'row')} flip{'s' if len(comparison.flipped) == 1 else ''}{cut}:")
    for row in shown:
        mark = "+" if row["right"] else "-"
        reference, mine, winner = (one_line(row[key], _ANSWER_WIDTH) for key in ("gold", "mine", "winner"))
        lines.append(f"  {mark} {one_line(row['input'], _WIDTH)}  [{reference}; yours {mine}, winner {winner}]")
    return "\n".join(lines)
