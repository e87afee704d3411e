"""The arms of a run as a table: score, interval, log-loss, rule and steps of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cotune.errors import counted
from cotune.report.terminal.arm_words import ArmGroup, arm_name, why_untuned
from cotune.report.terminal.layout import table_of
from cotune.report.terminal.narration import REFERENCE_NAMES
from cotune.report.terminal.plain import between, decimal, fields, items, number, one_line

if TYPE_CHECKING:
    from rich.table import Table

_MARKS = "abcdefgh"
# Least width of a terminal for the description of arms, and for all numbers.
_WIDE, _NARROW = 100, 60


def arms_title(summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> str:
    splits = {str(arm["split"]) for arm in arms.values() if arm.get("split")}
    where = f" on the {one_line(splits.pop(), 20)} split" if len(splits) == 1 else ""
    counts = {number(arm.get("n")) for arm in arms.values()}
    only = counts.pop() if len(counts) == 1 else None
    rows = "" if only is None else f", {counted(int(only), 'row')}"
    metric = summary.get("metric")
    named = f", {one_line(metric, 24)}" if isinstance(metric, str) and metric else ""
    return f"The arms{where}{rows}{named}"


def arm_marks(groups: Sequence[ArmGroup]) -> dict[ArmGroup, str]:
    """A letter for each group of several arms, which the notes below the table explain."""
    return dict(zip((group for group in groups if len(group.names) > 1), _MARKS, strict=False))


def arm_notes(summary: Mapping[str, Any], marks: Mapping[ArmGroup, str]) -> list[str]:
    """Notes for the letters: arms with the same candidate, and arms called tuned that were not tuned."""
    notes = []
    for group, mark in marks.items():
        *names, last = [name for name in map(arm_name, group.names) if name != group.title]
        others = f"{', '.join(names)} and {last}" if names else last
        untuned = group.frozen and {"seed_tuned", "best_tuned"} & set(group.names)
        why = f"as {why_untuned(summary, group)}, " if untuned else ""
        notes.append(f"({mark}) {why}this arm also stands for {others}")
    return notes


def arms_table(
    summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], groups: Sequence[ArmGroup], width: int
) -> Table:
    from rich.text import Text

    counts = {number(arm.get("n")) for arm in arms.values()}
    splits = {str(arm.get("split")) for arm in arms.values()}
    wide = width >= _WIDE
    columns = ["arm", *(["what it is"] if wide else []), "score>", "95% interval", "log-loss>"]
    columns += [*(["n>"] if wide or len(counts) > 1 else []), *(["split"] if len(splits) > 1 else []), "rule", "steps>"]
    if width < _NARROW:
        columns = [column for column in columns if column not in ("log-loss>", "rule", "steps>")]
    table = table_of(columns, width)
    winner, marks = _winner(summary, arms), arm_marks(groups)
    for group in groups:
        arm = arms[group.names[0]]
        cells = {
            "arm": group.title + (f" ({marks[group]})" if group in marks else ""),
            "what it is": group.meaning,
            "score>": decimal(arm.get("score")),
            "95% interval": interval_text(arm.get("ci")),
            "log-loss>": decimal(arm.get("log_loss")),
            "n>": decimal(arm.get("n"), 0),
            "split": one_line(arm.get("split") or "-", 12),
            "rule": rule_of(arm),
            "steps>": decimal(arm.get("steps"), 0),
        }
        table.add_row(*(Text(cells[column]) for column in columns), style="bold green" if winner in group.names else "")
    return table


def _winner(summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The arm in the bundle, if the summary names it."""
    best = fields(summary.get("best"))
    named = best.get("arm")
    if isinstance(named, str) and named in arms:
        return named
    return "best_tuned" if "best_tuned" in arms else None


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
    counted = len({number(one.get("n")) for one in references.values()}) > 1
    columns = ["reference", "score>", "95% interval", *(["log-loss>"] if width >= _NARROW else [])]
    columns += ["n>"] if counted else []
    table = table_of(columns, width)
    for name, one in references.items():
        cells = [REFERENCE_NAMES.get(name, one_line(name, 40)), decimal(one.get("score")), interval_text(one.get("ci"))]
        cells += [decimal(one.get("log_loss"))] if width >= _NARROW else []
        cells += [decimal(one.get("n"), 0)] if counted else []
        table.add_row(*map(Text, cells))
    return table


def interval_text(ci: object) -> str:
    """An interval as ``0.918 to 0.959``; ``-`` if not known."""
    ends = items(ci)
    if len(ends) != 2 or all(number(end) is None for end in ends):
        return "-"
    return between(ends)
