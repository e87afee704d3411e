"""``cotune compare``: two runs on the same test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Json, app, echo_json, option, tell
from cotune.errors import counted
from cotune.evaluate.words import NO_DIFFERENCE, change_text, metric_words, uncertainty_text


@app.command(
    epilog="Examples:\n\n  cotune compare runs/before runs/after\n  cotune compare runs/before runs/after --json\n"
    "  cotune compare runs/before runs/after --report difference.html"
)
def compare(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Folder of another run, tested on the same rows.")],
    report: Annotated[Path | None, option("FILE", "Also write the comparison as one offline HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the bundles of two runs on the same test rows.

    Prints the difference of their scores with its 95% interval and p-value.
    """
    from cotune.cycle.runs.side_by_side import compare_runs

    comparison = compare_runs(first, second)
    if report is not None:
        from cotune.files import write_text
        from cotune.report.html.comparison import render_comparison

        write_text(report, render_comparison(comparison.for_page()))
    if as_json:
        echo_json(comparison.to_json())
        return
    tell(
        f"{metric_words(comparison.metric)} on the same {counted(comparison.n, 'test row')}: "
        f"{first} {comparison.scores[0]:.3f}, {second} {comparison.scores[1]:.3f}"
    )
    verdict = "" if comparison.gain.significant() else f": {NO_DIFFERENCE}"
    uncertainty = uncertainty_text(comparison.gain.ci.as_list(), comparison.gain.p, "paired")
    tell(f"{second} {change_text(comparison.gain.value)} ({uncertainty}){verdict}.")
    tell(f"Right in the first only: {counted(comparison.only_first, 'row')}; in the second only: {comparison.only_second}.")
    if comparison.remark:
        tell(comparison.remark)
    if report is not None:
        tell(f"Report: {report}")
