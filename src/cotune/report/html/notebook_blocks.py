"""Figures of a finished run for a notebook: layers and confusions from the report, without its style sheet or script.

Lines and texts use the colour of the surrounding text, and cells are tinted by opacity, so that light and dark pages both work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.errors import CotuneError, counted
from cotune.plain import one_line, shipped_arm
from cotune.report.html.markup import esc
from cotune.report.html.plot import nice_ticks, padded
from cotune.report.html.sections.layers import LayerCurve, read_curves
from cotune.report.html.sections.prompts import Prompts, read_prompts
from cotune.report.html.sections.record import RunRecord, read_record

_WIDE, _HIGH = 600, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 34
_RIGHT_ANSWER, _WRONG_ANSWER = "54,122,246", "226,88,34"
_MOST_LABELS = 16
_MOST_CONFUSIONS = 12
_KINDS = {"winner": ("the winning prompt", ""), "seed": ("the seed prompt", ' stroke-dasharray="5 4"')}


def run_blocks(folder: Path) -> list[tuple[str, str]]:
    """Title and HTML of each figure that a run's folder has data for; empty if the folder no longer exists."""
    try:
        record = read_record(folder)
        made = [
            ("Log-loss by layer", layer_curve(record, read_prompts(record))),
            ("What is taken for what", confusions(record)),
        ]
    except (CotuneError, OSError):
        return []
    return [(title, markup) for title, markup in made if markup]


def layer_curve(record: RunRecord, prompts: Prompts) -> str:
    """Cross-fitted log-loss of the winner's and the seed prompt's probes by layer; empty if no probe was fitted."""
    curves = {tag: curve for curve in read_curves(record, prompts) if (tag := prompts.tag(curve.prompt_id))}
    if not curves:
        return ""
    points = [(layer, loss) for curve in curves.values() for layer, (_, loss) in curve.probes.items()]
    points += [(point.layer, point.log_loss) for curve in curves.values() for point in curve.tuned]
    layers = sorted({layer for layer, _ in points})
    first, last = padded(map(float, layers), share=0.04, least=2.0)
    low, high = padded((loss for _, loss in points), share=0.1, least=0.05)

    def x(layer: float) -> str:
        return f"{_LEFT + (layer - first) / (last - first) * (_WIDE - _LEFT - _RIGHT):.1f}"

    def y(loss: float) -> str:
        return f"{_TOP + (high - loss) / (high - low) * (_HIGH - _TOP - _BOTTOM):.1f}"

    parts = []
    for tick in nice_ticks(low, high, 4):
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}" stroke-opacity=".15"/>')
        parts.append(_word(f"{tick:g}", str(_LEFT - 6), y(tick), "end", down=4))
    parts += [_word(str(layer), x(layer), str(_HIGH - _BOTTOM), "middle", down=16) for layer in layers]
    parts.append(_word("layer", str((_LEFT + _WIDE) // 2), str(_HIGH), "middle", down=-3))
    parts += [_line(curve, _KINDS[tag][1], x, y) for tag, curve in curves.items()]
    legend = "; ".join(
        f"{'dashed' if tag == 'seed' else 'solid'}: {_KINDS[tag][0]}"
        + (f", read after layer {curve.chosen}" if curve.chosen is not None else "")
        for tag, curve in curves.items()
    )
    rows = max(curve.rows for curve in curves.values())
    tuned = " Filled dots: after tuning, on held-out rows." if any(curve.tuned for curve in curves.values()) else ""
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="Log-loss by layer" style="width:100%;max-width:44em" '
        f'fill="none" stroke="currentColor">{"".join(parts)}</svg>'
        f"<p>Cross-fitted on {counted(rows, 'labelled row')}, less is better. {esc(legend[0].upper() + legend[1:])}.{tuned}</p>"
    )


def _line(curve: LayerCurve, dashes: str, x: Callable[[float], str], y: Callable[[float], str]) -> str:
    points = sorted((layer, loss) for layer, (_, loss) in curve.probes.items())
    path = " ".join(f"{x(layer)},{y(loss)}" for layer, loss in points)
    dots = "".join(
        f'<circle cx="{x(layer)}" cy="{y(loss)}" r="{5 if layer == curve.chosen else 3}" stroke-width="2">'
        f"<title>layer {layer}: {loss:.3f}</title></circle>"
        for layer, loss in points
    )
    dots += "".join(
        f'<circle cx="{x(point.layer)}" cy="{y(point.log_loss)}" r="4.5" fill="currentColor">'
        f"<title>tuned {counted(point.steps, 'step')}, layer {point.layer}: {point.log_loss:.3f}</title></circle>"
        for point in curve.tuned
    )
    return f'<polyline points="{path}" stroke-width="2"{dashes}/>{dots}'


def _word(text: str, x: str, y: str, anchor: str, *, down: int = 0) -> str:
    place = f'x="{x}" y="{float(y) + down:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="12" fill="currentColor" stroke="none" opacity=".75">{esc(text)}</text>'


def confusions(record: RunRecord) -> str:
    """Confusion table of the arm in the bundle on the test rows; empty if answers are not labels."""
    from cotune.evaluate.shares import confusion_matrix

    tests = record.tests
    if not tests.arms or tests.written:
        return ""
    shipped = shipped_arm(record.summary)
    arm = shipped if shipped in tests.arms else tests.arms[-1]
    references, answers = (
        np.array(each) for each in zip(*((row.reference, row.answers[arm]) for row in tests.rows), strict=True)
    )
    counts = confusion_matrix(references, answers, len(tests.labels))
    right = f"<p>{int(np.trace(counts))} of {counted(len(tests.rows), 'test row')} right."
    if len(tests.labels) > _MOST_LABELS:
        return f"{right}</p>{_most_frequent(tests.labels, counts)}"
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [one_line(label, 30) for label in tests.labels]
    head = "".join(_cell("th", str(number), title=name) for number, name in enumerate(names, 1))
    lines = ""
    for i, name in enumerate(names):
        colours = [_RIGHT_ANSWER if i == j else _WRONG_ANSWER for j in range(len(names))]
        cells = [
            _cell("td", str(n) if n else "·", tint=(colour, float(share)))
            for n, colour, share in zip(counts[i], colours, shares[i], strict=True)
        ]
        lines += f"<tr>{_cell('th', f'{i + 1} {name}', side='left')}{''.join(cells)}</tr>"
    table = f'<table style="border-collapse:collapse"><tr><th style="background:none"></th>{head}</tr>{lines}</table>'
    return f"{right} A row for each right label, a column for each answer, by the labels’ numbers.</p>{table}"


def _most_frequent(labels: tuple[str, ...], counts: NDArray[np.int64]) -> str:
    wrong = sorted(((int(counts[i, j]), int(i), int(j)) for i, j in np.argwhere(counts) if i != j), key=lambda one: -one[0])
    head = "".join(_cell("th", title, side="left") for title in ("right label", "answer", "rows"))
    lines = "".join(
        "<tr>" + "".join(_cell("td", one_line(text, 40), side="left") for text in (labels[i], labels[j], str(n))) + "</tr>"
        for n, i, j in wrong[:_MOST_CONFUSIONS]
    )
    return f'<table style="border-collapse:collapse"><tr>{head}</tr>{lines}</table>' if wrong else ""


def _cell(tag: str, text: str, *, side: str = "center", title: str = "", tint: tuple[str, float] | None = None) -> str:
    ground = "none" if tint is None or not tint[1] else f"rgba({tint[0]},{0.12 + 0.5 * tint[1]:.2f})"
    hover = f' title="{esc(title)}"' if title else ""
    return f'<{tag}{hover} style="padding:3px 8px;text-align:{side};white-space:nowrap;background:{ground}">{esc(text)}</{tag}>'
