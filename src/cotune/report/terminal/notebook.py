"""HTML and text representations of results in notebooks; the HTML needs no other files."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cotune.errors import counted
from cotune.evaluate.words import REFERENCE_NAMES, arm_groups, difference_text, gain_rows, group_of, has_gains, p_value
from cotune.plain import aside, between, decimal, ends_of, fields, harmless, number, one_line, shipped, shipped_arm
from cotune.report.terminal.advice import bundle_path, next_steps
from cotune.report.terminal.result import references_of, result_warnings
from cotune.report.terminal.tryout import TRYOUT_CLOSING, tryout_heading
from cotune.report.terminal.verdict import headline, verdict_text
from cotune.report.terminal.verdict_tables import score_cells

if TYPE_CHECKING:
    from cotune.evaluate.tried import Comparison, Tried

_BLOCK = '<div style="max-width:56em;line-height:1.45;overflow-x:auto">'
_CELL = "padding:2px 14px 2px 0;text-align:{side};white-space:nowrap;background:none"
_MOST_FLIPPED = 8


def summary_html(summary: Mapping[str, Any], pictures: Sequence[tuple[str, str]] = ()) -> str:
    """A finished run as an HTML block: result, warnings, gains, arms, references and next steps.

    Args:
        summary: as ``summary.json`` holds it; ``out``, if present, is the run's folder.
        pictures: title and HTML of further parts, each collapsed at first.
    """
    first, *rest = headline(summary)
    parts = [f'<p style="font-size:1.15em;margin:0 0 .4em"><b>{_text(first)}</b></p>']
    parts += [f"<p>{_text(' '.join(rest))}</p>"] if rest else []
    parts += [f"<p><b>Warning:</b> {_text(warning)}</p>" for warning in result_warnings(summary)]
    if has_gains(summary):
        rows = gain_rows(summary)
        parts.append(_table("Gains, in points", ["gain", "value", "95% interval", "p", "reading"], rows, numbers=(1, 3)))
    arms = {str(name): fields(arm) for name, arm in fields(summary.get("arms")).items() if isinstance(arm, Mapping)}
    scored = [(group.title, arms[group.names[0]]) for group in arm_groups(arms)]
    scored += [(REFERENCE_NAMES[name], one) for name, one in references_of(summary).items()]
    if scored:
        rows = [[name, *score_cells(one)] for name, one in scored]
        titles = ["arm or reference", "score", "95% interval", "log-loss", "rows"]
        parts.append(_table("On the sealed test", titles, rows, numbers=(1, 3, 4)))
    parts += [_folded(title, markup) for title, markup in pictures]
    prompt = fields(summary.get("best")).get("prompt_text")
    if isinstance(prompt, str) and prompt:
        parts.append(_folded("The winning prompt", notebook_html(prompt)))
    parts.append(_folded("Everything in words", notebook_html(verdict_text(summary))))
    if steps := next_steps(summary):
        parts.append(_folded("What to do next", "<ul>" + "".join(f"<li>{_text(step)}</li>" for step in steps) + "</ul>"))
    if fields(summary.get("best")).get("bundle"):
        parts.append(f"<p>The bundle is in <code>{_text(bundle_path(summary))}</code>.</p>")
    return f"{_BLOCK}{''.join(parts)}</div>"


def tryout_html(tried: Tried) -> str:
    """The comparison of a prompt with a run's winner as an HTML block."""
    rows = [
        [
            f"{one.weights} weights",
            decimal(one.mine),
            decimal(one.winner),
            difference_text(one.difference),
            between((one.low, one.high), difference_text),
            p_value(one.p),
            one.reading,
        ]
        for one in tried.comparisons
    ]
    titles = ["", "yours", "winner", "difference in points", "95% interval", "p", "reading"]
    heading = "".join(f"<p>{_text(part)}</p>" for part in tryout_heading(tried).split("\n\n"))
    flipped = "".join(_flipped(one) for one in tried.comparisons)
    return f"{_BLOCK}{heading}{_table('', titles, rows, numbers=(1, 2, 3))}{flipped}<p>{_text(TRYOUT_CLOSING)}</p></div>"


def _flipped(comparison: Comparison) -> str:
    if not comparison.flipped:
        return ""
    shown = comparison.flipped[:_MOST_FLIPPED]
    rows = [[one_line(row["input"], 90), *(one_line(row[key], 60) for key in ("gold", "mine", "winner"))] for row in shown]
    cut = f", the first {len(shown)}" if len(shown) < len(comparison.flipped) else ""
    flip = f"{counted(len(comparison.flipped), 'row')} flip{'s' if len(comparison.flipped) == 1 else ''}"
    title = f"{flip} between right and wrong under the {comparison.weights} weights{cut}"
    return _folded(title, _table("", ["row", "right answer", "yours", "winner"], rows))


def notebook_html(text: str) -> str:
    """A text as escaped, preformatted HTML."""
    return f'<pre style="line-height:1.35;overflow-x:auto">{html.escape(harmless(text))}</pre>'


def summary_line(summary: Mapping[str, Any]) -> str:
    """A run in short: ``best tuned 0.942 (0.918 to 0.959) on 500 test rows``."""
    arm = shipped(summary)
    named = group_of(fields(summary.get("arms")), shipped_arm(summary)).title
    score, ends = number(arm.get("score")), between(ends_of(arm.get("ci")))
    if score is None:
        return "no score yet"
    return f"{named} {score:.3f}{aside(ends)} on {counted(arm.get('n'), arm.get('split', 'test') + ' row')}"


def _text(text: object) -> str:
    return html.escape(harmless(text))


def _folded(title: str, inside: str) -> str:
    return f'<details style="margin:.4em 0"><summary style="cursor:pointer">{_text(title)}</summary>{inside}</details>'


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    sides = ["right" if place in numbers else "left" for place in range(len(columns))]

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(
            f'<{tag} style="{_CELL.format(side=side)}">{_text(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True)
        ) + "</tr>"  # fmt: skip

    heading = f'<p style="margin:.8em 0 .2em"><b>{_text(title)}</b></p>' if title else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'{heading}<table style="border-collapse:collapse">{row(columns, "th")}{body}</table>'
