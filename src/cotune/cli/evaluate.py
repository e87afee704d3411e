"""``cotune evaluate``: score a bundle on labelled rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotune.cli.program import Base, Batch, Bundle, Endpoint, Json, KeyEnv, Patience, app, counting, echo_json, option, tell
from cotune.cli.terminal import out_console
from cotune.errors import counted
from cotune.evaluate.words import metric_words
from cotune.garbage import collection_paused
from cotune.plain import harmless, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cotune.bundle.scored import Scored
    from cotune.evaluate.shares import PartScores, Share

_SHORT = 16
"""Characters of a label for which a table makes room before it shows intervals."""
_MATRIX_LABELS = 10
_CONFUSIONS = 12


@app.command(
    epilog="Examples:\n\n  cotune evaluate runs/mine labelled.csv\n"
    "  cotune evaluate runs/mine labelled.csv --metric macro_f1 --json"
)
def evaluate(
    bundle: Bundle,
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="Labelled rows: CSV, TSV, JSONL, Parquet or hf://owner/name[:split].")
    ],
    output: Annotated[
        list[str] | None, option("COLUMN", "Column of the right answers. (default: that or those of the training rows)")
    ] = None,
    metric: Annotated[str | None, option("METRIC", "Such as macro_f1 or FILE.py:FUNCTION. (default: the bundle's)")] = None,
    group: Annotated[str | None, option("COLUMN", "Column whose equal values mark rows that depend on each other.")] = None,
    batch: Batch = 64,
    base: Base = None,
    key_env: KeyEnv = None,
    endpoint: Endpoint = None,
    patience: Patience = 600.0,
    as_json: Json = False,
) -> None:
    """Score a bundle on labelled rows that its run has not seen.

    Prints the score with its 95% interval, and for labels precision, recall and a confusion matrix.
    """
    with collection_paused():
        from cotune.bundle import load
        from cotune.bundle.manifest import bundle_folder, read_manifest
        from cotune.bundle.scored import LabelledRows, score_rows
        from cotune.bundle.seen import seen_rows
        from cotune.task.output_columns import joined_name
        from cotune.task.reading.read import read_table

    bundle = bundle_folder(bundle)
    column = joined_name(output) if output else None
    labelled = LabelledRows.of(read_table(rows), read_manifest(bundle), column=column, metric=metric, group=group)
    for remark in labelled.remarks:
        tell(remark, err=True)
    seen = seen_rows(bundle, labelled.rows)
    for warning in seen.warnings() if seen else []:
        tell(f"Warning: {warning}", err=True)
    predictor = load(bundle, base=base, key_env=key_env, endpoint=endpoint, patience=patience)
    scored = score_rows(predictor, labelled, batch=batch, progress=counting(len(labelled.rows)))
    if as_json:
        echo_json({"bundle": str(bundle), "rows": rows, **scored.to_json(), "seen": seen.to_json() if seen else None})
        return
    console = out_console()
    for part in _shown(scored, rows, console.width):
        console.print(part)


def _shown(scored: Scored, source: str, width: int) -> Iterator[Any]:
    from rich.text import Text

    low, high = scored.interval.low, scored.interval.high
    # A single row with a fractional score says nothing about others.
    interval = f"95% interval {low:.3f} to {high:.3f}" if math.isfinite(low) and math.isfinite(high) else "interval unknown"
    yield Text(
        f"{metric_words(scored.metric)} {scored.score:.3f} ({interval}) on {counted(scored.n, 'row')} of "
        f"{one_line(source, 80)}, {scored.right:,} of them right"
    )
    for name, error in scored.errors.items():
        yield Text(f"{name.replace('_', ' ')} {error:.4g}")
    if scored.majority is not None:
        yield Text(f"always {one_line(scored.majority[0], 40)!r}, the most frequent label here: {scored.majority[1]:.3f}")
    if scored.skipped:
        yield Text(f"Left out: {counted(scored.skipped, 'row')} without input or right answer.")
    if scored.unknown:
        listed = ", ".join(f"{label!r} ({count})" for label, count in list(scored.unknown.items())[:8])
        yield Text(harmless(f"Labels that the bundle does not know, whose rows count as wrong: {listed}."))
    if scored.truncated:
        yield Text(f"Of {counted(scored.truncated, 'row')} the text was too long and was truncated.")
    if scored.refused:
        yield Text(f"The endpoint refused {counted(scored.refused, 'row')}, which count as wrong.")
    if scored.labels:
        yield Text("")
        yield _table("label", scored.labels, width)
        yield Text("")
        yield from _confusion(scored, width)
    if scored.fields:
        yield Text("")
        yield _table("field", scored.fields, width)


def _table(what: str, parts: Sequence[PartScores], width: int) -> Any:
    from rich.text import Text

    from cotune.report.terminal.layout import table_of

    table = table_of([what, "rows>", "given>", "precision", "recall", "F1"], width)
    names = [one_line(one.name, 40) for one in parts]
    # On 80 columns, long labels leave no room for all three intervals: omit that of F1, which combines the other two. On a
    # narrow terminal omit all, so that labels are not cut.
    counts, interval, longest = len("  rows  given"), len("  0.85 (0.65-0.95)"), max(map(len, names), default=0)
    whole = counts + 3 * interval + longest <= width
    two = counts + 2 * interval + len("  0.85") + min(longest, _SHORT) <= width
    for name, one in zip(names, parts, strict=True):
        shares = (_share(one.precision, interval=two), _share(one.recall, interval=two), _share(one.f1, interval=whole))
        table.add_row(Text(name), str(one.right), str(one.given), *shares)
    return table


def _share(share: Share | None, *, interval: bool) -> str:
    if share is None:
        return "-"
    # With "to" as elsewhere there would be no room for labels on 80 columns.
    return f"{share.value:.2f}" + (f" ({share.interval.low:.2f}-{share.interval.high:.2f})" if interval else "")


def _confusion(scored: Scored, width: int) -> Iterator[Any]:
    """The confusion matrix if it fits, else the most frequent confusions."""
    from rich.text import Text

    from cotune.report.terminal.layout import table_of

    assert scored.confusion is not None
    labels = [one_line(one.name, 24) for one in scored.labels]
    # Long names leave no room for columns, so columns are numbered and rows show number and name.
    numbered = max(map(len, labels)) + sum(max(3, len(name)) + 2 for name in labels) + 2 > width
    names = [f"{place} {name}" for place, name in enumerate(labels, 1)] if numbered else labels
    heads = [str(place) for place in range(1, len(labels) + 1)] if numbered else labels
    room = max(map(len, names)) + sum(max(3, len(head)) + 2 for head in heads) + 2
    if len(names) <= _MATRIX_LABELS and room <= width:
        yield Text(f"Right label (rows) and answer (columns{', by number' if numbered else ''}):")
        table = table_of(["", *(f"{head}>" for head in heads)], width)
        for name, counts in zip(names, scored.confusion, strict=True):
            table.add_row(Text(name), *(str(count) if count else "·" for count in counts))
        yield table
        return
    import numpy as np

    pairs = [
        (int(count), scored.labels[i].name, scored.labels[j].name)
        for (i, j), count in np.ndenumerate(scored.confusion)
        if i != j and count
    ]
    yield Text("Most frequent confusions:" if pairs else "No confusions.")
    for count, right, answer in sorted(pairs, key=lambda one: (-one[0], one[1:]))[:_CONFUSIONS]:
        yield Text(f"  {counted(count, 'row')} of {one_line(right, 40)!r} answered {one_line(answer, 40)!r}")
