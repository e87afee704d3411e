"""Tables of the final summary: arms, references and gains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from cotune.errors import counted
from cotune.evaluate.words import (
    LEADING,
    NO_DIFFERENCE,
    NOISE,
    REFERENCE_NAMES,
    SAME_ARM,
    ArmGroup,
    gain_rows,
    repeated_text,
    shown_gains,
    why_untuned,
)
from cotune.plain import decimal, fields, interval_text, number, one_line, shipped_arm
from cotune.report.terminal.layout import table_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_MARKS, _ERROR = "abcdefgh", "mean_absolute_error"
# Least width of a terminal for the description of arms, and for all numbers.
_WIDE, _NARROW = 100, 60
_STYLES = {SAME_ARM: "bright_black", "a gain": "green", "worth more together": "green", "a loss": "red"}
_DOUBTS = (NO_DIFFERENCE, NOISE)


def arms_title(summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {number(arm.get("n")) for arm in arms.values()}
    only = counts.pop() if len(counts) == 1 else None
    rows = "" if only is None else f", {counted(int(only), 'row')}"
    metric = summary.get("metric")
    named = f", {one_line(metric, 24)}" if isinstance(metric, str) and metric else ""
    return f"The arms on the test split{rows}{named}"


def arm_marks(groups: Sequence[ArmGroup]) -> dict[ArmGroup, str]:
    """A letter for each group of several arms, which the notes below the table explain."""
    return dict(zip((group for group in groups if len(group.names) > 1), _MARKS, strict=False))


def arm_notes(summary: Mapping[str, Any], marks: Mapping[ArmGroup, str]) -> list[str]:
    """Notes for the letters: arms with the same candidate, and arms called tuned that were not tuned."""
    notes = []
    for group, mark in marks.items():
        *names, last = group.others
        others = f"{', '.join(names)} and {last}" if names else last
        why = f"as {why_untuned(summary, group)}, " if group.untuned else ""
        notes.append(f"({mark}) {why}this arm also stands for {others}")
    return notes


def arms_table(
    summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], groups: Sequence[ArmGroup], width: int
) -> Table:
    from rich.text import Text

    counts = {number(arm.get("n")) for arm in arms.values()}
    wide, narrow = width >= _WIDE, width < _NARROW
    columns = ["arm", *(["what it is"] if wide else []), "score>", "95% interval", *([] if narrow else ["log-loss>"])]
    columns += ["mean error>"] if any(number(arm.get(_ERROR)) is not None for arm in arms.values()) and not narrow else []
    columns += [*(["n>"] if wide or len(counts) > 1 else []), *([] if narrow else ["rule", "steps>"])]
    table = table_of(columns, width)
    winner, marks = shipped_arm(summary), arm_marks(groups)
    for group in groups:
        arm = arms[group.names[0]]
        cells = {
            "arm": group.title + (f" ({marks[group]})" if group in marks else ""),
            "what it is": group.meaning,
            **dict(zip(("score>", "95% interval", "log-loss>", "n>"), score_cells(arm), strict=True)),
            "mean error>": plain_error(arm),
            "rule": rule_of(arm),
            "steps>": decimal(arm.get("steps"), 0),
        }
        table.add_row(*(Text(cells[column]) for column in columns), style="bold green" if winner in group.names else "")
    return table


def rule_of(arm: Mapping[str, Any]) -> str:
    """The rule by which an arm chooses answers: ``probe, layer 20, TF-IDF``, or the kind of its decision rule."""
    decision, layer = arm.get("decision"), number(arm.get("layer"))
    kind = decision if isinstance(decision, str) else fields(decision).get("kind")
    if kind == "probe" and layer is not None:
        return f"probe, layer {layer:.0f}{', TF-IDF' if arm.get('tfidf') else ''}"
    return one_line(kind, 10) if kind else "-"


def references_table(references: Mapping[str, Mapping[str, Any]], width: int) -> Table:
    """The references, on the same rows as the arms."""
    from rich.text import Text

    # On a long test, label words are scored on a sample of the rows.
    shown = [True, True, True, width >= _NARROW, len({number(one.get("n")) for one in references.values()}) > 1]
    shown += [width >= _NARROW and any(number(one.get(_ERROR)) is not None for one in references.values())]
    table = table_of([*compress(("reference", "score>", "95% interval", "log-loss>", "n>", "mean error>"), shown)], width)
    for name, one in references.items():
        table.add_row(*map(Text, compress((REFERENCE_NAMES[name], *score_cells(one), plain_error(one)), shown)))
    return table


def plain_error(one: Mapping[str, Any]) -> str:
    """Mean absolute error of an arm or a reference whose answers are numbers, in their unit."""
    error = number(one.get(_ERROR))
    return "-" if error is None else f"{error:.4g}"


def score_cells(one: Mapping[str, Any]) -> list[str]:
    """Score, interval, log-loss and number of rows of an arm or a reference."""
    return [decimal(one.get("score")), interval_text(one.get("ci")), decimal(one.get("log_loss")), decimal(one.get("n"), 0)]


def gains_parts(summary: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    """The table of gains; in a narrow terminal the readings follow on separate lines."""
    from rich.text import Text

    names, rows = shown_gains(summary), gain_rows(summary)
    columns = ["gain", "value>", "95% interval", "p>", "reading"]
    needed = sum(max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True))
    shown = len(columns) if needed <= width else len(columns) - 1
    table = table_of(columns[:shown], width)
    for name, row in zip(names, rows, strict=True):
        bold = "bold" if name == LEADING else ""
        cells = [*(Text(cell, style=bold) for cell in row[:-1]), _styled(row[-1], row[-1])]
        table.add_row(*cells[:shown])
    yield table
    if shown < len(columns):
        for reading in dict.fromkeys(row[-1] for row in rows if row[-1] in (*_DOUBTS, SAME_ARM)):
            yield _styled(f"{reading}: {'; '.join(row[0] for row in rows if row[-1] == reading)}", reading)
    if text := repeated_text(summary):
        yield Text(text, style="bright_black")


def _styled(text: str, reading: str) -> Text:
    from rich.text import Text

    return Text(text, style="yellow" if reading in _DOUBTS else _STYLES.get(reading, ""))
