"""Tables, pictures and JSON of the cells that ``run.py`` has finished.

    python benchmarks/compare/table.py --out FOLDER [--to FOLDER] [--against cotune_3m]

Writes ``comparison.md``, ``comparison.json`` and a picture of score against seconds for each set and size, and one over all, to
``--to`` (OUT by default), and prints the Markdown. Where a peer's difference to cotune is told apart from none after Holm's
correction over the peers it stands in bold, whoever is the better one. What prompt and tuning gained in cotune's runs and which
cells are missing, failed or did not finish is told below the tables; such cells are in no mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from compare.cells import DONE, Cell, read_cells
from compare.gains import GAINS, all_gains
from compare.pairs import LOG_LOSS, SCORE, Difference, by_peer, differences, pooled, scope_of
from compare.picture import Point, score_picture
from compare.registry import PEERS, REFERENCE, is_ours
from compare.scores import Scored, score_cell, summed_interval
from cotune.errors import CotuneError, InputError
from cotune.evaluate.stats.intervals import Interval, mean_interval, proportion_interval
from cotune.files import slug, write_json, write_text

ALPHA = 0.05
_COLUMNS = {
    "accuracy": ["accuracy (95%)", "macro F1", "log-loss (95%)", "ECE"],
    "json_f1": ["JSON F1 (95%)", "whole answer right"],
    "r2": ["R² (95%)", "Spearman", "mean absolute error"],
}
_BESIDE = {"json_f1": ("accuracy",), "r2": ("spearman", "mean_absolute_error")}
_NOT_DRAWN = ("majority",)
"""Peers that the pictures leave out: far below the others, they would press these together at the top."""
SLOW = 0.75
"""Share of the usual rate of matrix products below which a machine counts as slow; on a shared one a fifth less is common."""


@dataclass(frozen=True)
class Line:
    """A peer's means over the draws of a scope.

    Attributes:
        peer: whose.
        cells: how many are in it.
        values: means by name: those of :class:`compare.scores.Scored`; ``train_s``, ``predict_ms`` a row, ``peak_mb``,
            ``shipped_mb``, ``base_mb``, ``all_s``.
        ci: 95% intervals of ``accuracy``, ``json_f1`` or ``r2``, and of ``log_loss``, over the test rows.
    """

    peer: str
    cells: int
    values: dict[str, float]
    ci: dict[str, Interval]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of run.py's cells")
    parser.add_argument("--to", type=Path, help="folder for what is written; that of the cells by default")
    parser.add_argument("--against", default=REFERENCE, help="the peer that the others are compared with")
    given = parser.parse_args(arguments)
    try:
        found = report(given.out, given.to or given.out, given.against)
    except CotuneError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(found)
    return 0


def report(out: Path, to: Path, against: str) -> str:
    """Write tables, pictures and JSON; returns the Markdown.

    Raises:
        InputError: there is no finished cell.
    """
    cells = read_cells(out)
    scored = [score_cell(out, cell) for cell in cells if cell.status == DONE]
    if not scored:
        raise InputError("there is no finished cell", where=str(out), hint="Run benchmarks/compare/run.py first.")
    scopes = _scopes(scored)
    compared = {scope: differences(part, against, scope) for scope, part in scopes.items()}
    over_all = pooled(scored, against)
    parts = [about(cells)]
    lines: dict[str, list[Line]] = {}
    for scope, part in scopes.items():
        lines[scope] = lines_of(part)
        picture = f"score-{slug(scope)}.svg"
        write_text(to / picture, _picture(scope, part, lines[scope]))
        parts.append(
            f"### {scope} labelled rows\n\n{markdown(lines[scope], compared[scope], against)}\n\n![{scope}]({picture})"
        )
    if over_all:
        parts.append(f"### Pooled\n\n{pooled_markdown(over_all, against)}")
    whole = _pooled_picture(scored)
    if whole:
        write_text(to / "score-all-sets.svg", whole)
        parts.append("![score against seconds, mean over sets, sizes and draws](score-all-sets.svg)")
    gained = all_gains(scored)
    parts += [gains_markdown(peer, found) for peer, found in gained.items()]
    parts += [slow_cells(cells), unfinished(cells)]
    told = "\n\n".join(part for part in parts if part) + "\n"
    write_text(to / "comparison.md", told)
    write_json(
        to / "comparison.json",
        {
            "against": against,
            "scopes": {scope: [_line_json(line) for line in found] for scope, found in lines.items()},
            "gains": {peer: [_difference_json(one) for one in found] for peer, found in gained.items()},
            "differences": [_difference_json(one) for found in (*compared.values(), over_all) for one in found],
            "cells": [asdict(cell) for cell in cells],
        },
    )
    return told


def lines_of(scored: Iterable[Scored]) -> list[Line]:
    """A line a peer, the best score first; all of one set and size."""
    found = [_line(peer, part) for peer, part in by_peer(scored).items()]
    return sorted(found, key=lambda line: -line.values[_main(line.values)])


def markdown(lines: Sequence[Line], compared: Sequence[Difference], against: str) -> str:
    """The table of one set and size."""
    found = {(one.peer, one.measure): one for one in compared}
    kind = _main(lines[0].values)
    labels = kind == "accuracy"
    last = ["cotune's score less the peer's"] + (["log-loss likewise"] if labels else [])
    scores = _COLUMNS[kind]
    head = ["", *scores, "train, s", "ms a row", "peak MB", "ships MB", *last]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for line in lines:
        values, main_score = line.values, _main(line.values)
        cells = [_name(line.peer), f"{values[main_score]:.3f}{_between(line.ci[main_score])}"]
        if not labels:
            cells += [f"{values[name]:.3f}" for name in _BESIDE[kind]]
        else:
            loss = f"{values['log_loss']:.3f}{_between(line.ci['log_loss'])}" if "log_loss" in values else "-"
            cells += [f"{values['macro_f1']:.3f}", loss, f"{values['ece']:.3f}" if "ece" in values else "-"]
        cells += [f"{values['train_s']:.1f}", f"{values['predict_ms']:.1f}", f"{values['peak_mb']:.0f}"]
        cells.append(f"{values['shipped_mb']:.2f} + {values['base_mb']:.0f}")
        cells += [_told(found.get((line.peer, measure))) for measure in ((SCORE, LOG_LOSS) if labels else (SCORE,))]
        rows.append(f"| {' | '.join(cells)} |")
    count = max(line.cells for line in lines)
    drawn = "one draw" if count == 1 else f"means of {count} draws"
    few = [f"{_name(line.peer)} {line.cells}" for line in lines if line.cells < count]
    fewer = f" (fewer of {', '.join(few)})" if few else ""
    return "\n".join(rows) + f"\n\nDifferences are to {_name(against)}; {drawn}{fewer}."


def pooled_markdown(compared: Sequence[Difference], against: str) -> str:
    """The pooled differences."""
    rows = [
        f"| pooled over | {_name(against)} against | cells "
        "| score, cotune less the peer | p (Holm) | log-loss likewise | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    losses = {(one.scope, one.peer): one for one in compared if one.measure == LOG_LOSS}
    for one in compared:
        if one.measure == SCORE:
            loss = losses.get((one.scope, one.peer))
            side = "- | -" if loss is None else f"{_amount(loss)} | {_p(loss.p_holm)}"
            rows.append(f"| {one.scope} | {_name(one.peer)} | {one.cells} | {_amount(one)} | {_p(one.p_holm)} | {side} |")
    return "\n".join(rows)


def gains_markdown(peer: str, found: Sequence[Difference]) -> str:
    """What prompt and tuning gained in the runs of one budget."""
    names = [f"{gain}, points" for gain in GAINS] + [f"{gain}, log-loss" for gain in GAINS]
    rows = [f"### Gains of {_name(peer)}", "", f"| | {' | '.join(names)} |", f"|{'---|' * (1 + len(names))}"]
    by_scope = {(one.scope, one.measure, one.peer): one for one in found}
    for scope in dict.fromkeys(one.scope for one in found):
        told = [by_scope.get((scope, measure, gain)) for measure in (SCORE, LOG_LOSS) for gain in GAINS]
        rows.append(f"| {scope} | {' | '.join('-' if one is None else _gained(one) for one in told)} |")
    return (
        "\n".join(rows) + "\n\nOver the number of cells in brackets. Intervals (95%) are not corrected for the number of gains."
    )


def about(cells: Sequence[Cell]) -> str:
    """The machine, the days and the protocol, in words."""
    machines = sorted({f"{cell.machine.get('cpu', '?')}, {cell.machine.get('threads', '?')} threads" for cell in cells})
    days = sorted({cell.day for cell in cells if cell.day})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "an unknown day"
    commits = sorted({str(cell.machine.get("cotune", "?")) for cell in cells})
    return (
        f"Measured {when} on {'; '.join(machines)}, one process at a time (cotune {', '.join(commits)}). Labelled rows are all "
        "that a way may learn and choose from. Intervals (95%) and tests are over test rows; answers of several draws to one "
        "test row count as one group. Bold: told apart from cotune at 5% after Holm's correction over the peers. Seconds and "
        "memory are of the whole process, seen from outside; seconds without those for answering the test rows. Shipped is "
        "what was made, and the model that it stands on."
    )


def slow_cells(cells: Sequence[Cell]) -> str:
    """Cells during which the machine was slower than during most, so that their seconds are not comparable; empty if none."""
    rates = {cell.key: min(found) for cell in cells if (found := cell.machine.get("gflops"))}
    if not rates:
        return ""
    usual = float(np.median(list(rates.values())))
    slow = [cell for cell in cells if rates.get(cell.key, usual) < SLOW * usual]
    if not slow:
        return ""
    rows = ["### On a slower machine", "", f"| | cell | GFLOP/s (usually {usual:.0f}) |", "|---|---|---|"]
    rows += [f"| {_name(cell.peer)} | {scope_of(cell)}, draw {cell.draw} | {rates[cell.key]:.0f} |" for cell in slow]
    return "\n".join(rows)


def unfinished(cells: Sequence[Cell]) -> str:
    """Cells without answers, and why; empty where there are none."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.status != DONE:
            reasons.setdefault((cell.peer, cell.status, cell.reason), []).append(f"{scope_of(cell)}, draw {cell.draw}")
    if not reasons:
        return ""
    rows = ["### Not finished", "", "| | what | cells | why |", "|---|---|---|---|"]
    for (peer, status, reason), where in sorted(reasons.items()):
        shown = "; ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
        rows.append(f"| {_name(peer)} | {status} | {shown} | {reason.replace('|', '/')} |")
    return "\n".join(rows)


def _line(peer: str, part: Sequence[Scored]) -> Line:
    cells = [one.cell for one in part]
    values = {name: float(np.mean([one.values[name] for one in part])) for name in part[0].values}
    values |= {
        "train_s": float(np.mean([cell.seconds["train"] for cell in cells])),
        "all_s": float(np.mean([cell.seconds["all"] for cell in cells])),
        "predict_ms": float(np.mean([1000 * cell.seconds["predict"] / cell.tested for cell in cells])),
        "peak_mb": max(cell.peak_mb for cell in cells),
        "shipped_mb": float(np.mean([cell.shipped_mb for cell in cells])),
        "base_mb": float(np.mean([cell.base_mb for cell in cells])),
    }
    groups = np.concatenate([np.arange(len(one.right)) for one in part]) if len(part) > 1 else None
    worth = np.concatenate([one.worth for one in part])
    counts = [one.counts for one in part if one.counts is not None]
    if counts:
        ci = {_main(values): summed_interval(cells[0].kind, np.concatenate(counts), worth, groups)}
    else:
        ci = {"accuracy": proportion_interval(worth, groups=groups)}
    losses = [one.losses for one in part if one.losses is not None]
    if losses:
        ci["log_loss"] = mean_interval(np.concatenate(losses), seed=0, groups=groups)
    return Line(peer, len(part), values, ci)


def _scopes(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    order = sorted(scored, key=lambda one: (one.cell.kind != "label", one.cell.set, one.cell.per_class, one.cell.rows))
    found: dict[str, list[Scored]] = {}
    for one in order:
        found.setdefault(scope_of(one.cell), []).append(one)
    return found


def _picture(scope: str, part: Sequence[Scored], lines: Sequence[Line]) -> str:
    points = []
    for line in (line for line in lines if line.peer not in _NOT_DRAWN):
        name = _main(line.values)
        ci = line.ci[name]
        points.append(
            Point(_plain(line.peer), line.values["train_s"], line.values[name], (ci.low, ci.high), is_ours(line.peer))
        )
    return score_picture(f"{scope} labelled rows", points, _curve(_longest(part)), _axis(part))


def _pooled_picture(scored: Sequence[Scored]) -> str:
    """Means over all cells of label tasks, for those ways that have a cell wherever cotune's longest run has one."""
    labelled = [one for one in scored if one.cell.kind == "label"]
    runs = _longest_of_all(labelled)
    if len({scope_of(one.cell) for one in runs}) < 2:
        return ""
    places = {one.cell.place for one in runs}
    found = by_peer(one for one in labelled if one.cell.place in places)
    points = [
        Point(
            _plain(peer),
            float(np.mean([one.cell.seconds["train"] for one in part])),
            float(np.mean([one.values["accuracy"] for one in part])),
            None,
            is_ours(peer),
        )
        for peer, part in found.items()
        if peer not in _NOT_DRAWN and {one.cell.place for one in part} == places
    ]
    sets, sizes = {one.cell.set for one in runs}, {one.cell.drawn.size for one in runs}
    size = f", {next(iter(sizes))} labelled rows" if len(sizes) == 1 else " and sizes"
    return score_picture(f"Mean over {len(sets)} sets{size}", points, _mean_curve([_curve(one) for one in runs]))


def _curve(run: Scored | None) -> list[tuple[float, float]]:
    """Seconds and test score of each bundle of a cotune run."""
    return [] if run is None else [(at, values[_main(values)]) for at, values in run.curve]


def _mean_curve(curves: Sequence[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of step curves from the moment on at which all have a bundle."""
    known = [curve for curve in curves if curve]
    if not known or len(known) < len(curves):
        return []
    start = max(curve[0][0] for curve in known)
    times = sorted({start, *(at for curve in known for at, _ in curve if at > start)})
    return [(at, float(np.mean([[score for when, score in curve if when <= at][-1] for curve in known]))) for at in times]


def _longest(part: Sequence[Scored]) -> Scored | None:
    """The first draw of the longest budget's cotune run."""
    runs = [one for one in part if one.curve]
    return max(runs, key=lambda one: (one.cell.seconds["train"] // 30, -one.cell.draw)) if runs else None


def _longest_of_all(scored: Sequence[Scored]) -> list[Scored]:
    runs = [one for one in scored if one.curve]
    if not runs:
        return []
    budget = max(
        {one.cell.peer for one in runs}, key=lambda peer: max(o.cell.seconds["train"] for o in runs if o.cell.peer == peer)
    )
    return [one for one in runs if one.cell.peer == budget]


def _main(values: Mapping[str, float]) -> str:
    return next((name for name in ("json_f1", "r2") if name in values), "accuracy")


def _axis(part: Sequence[Scored]) -> str:
    return {"json": "JSON F1", "number": "R²"}.get(part[0].cell.kind, "accuracy")


def _name(peer: str) -> str:
    return PEERS[peer].told if peer in PEERS else peer


def _plain(peer: str) -> str:
    return _name(peer).replace("`", "").replace("cotune, --budget ", "cotune ")


def _between(ci: Interval) -> str:
    return f" ({ci.low:.3f} to {ci.high:.3f})"


def _told(one: Difference | None) -> str:
    if one is None:
        return "-"
    return f"{_amount(one)}, {_p(one.p_holm)}"


def _gained(one: Difference) -> str:
    value, interval = _shown(one)
    return f"{value} {interval} [{one.cells}]"


def _amount(one: Difference) -> str:
    value, interval = _shown(one)
    return f"**{value}** {interval}" if one.p_holm < ALPHA else f"{value} {interval}"


def _shown(one: Difference) -> tuple[str, str]:
    """A difference and its interval, scores in points."""
    digits, scale = (1, 100) if one.measure == SCORE else (3, 1)
    return f"{scale * one.value:+.{digits}f}", f"({scale * one.ci.low:+.{digits}f} to {scale * one.ci.high:+.{digits}f})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "peer": line.peer,
        "cells": line.cells,
        "values": {name: round(value, 6) for name, value in line.values.items()},
        "ci": {name: ci.as_list() for name, ci in line.ci.items()},
    }


def _difference_json(one: Difference) -> dict[str, Any]:
    return {**asdict(one), "ci": one.ci.as_list()}


if __name__ == "__main__":
    sys.exit(main())
