"""``cotune compare``: two runs on the same test rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Json, app, tell
from cotune.errors import counted


@app.command(
    epilog="Examples:\n\n  cotune compare runs/before runs/after\n\n  cotune compare runs/before runs/after --json\n\n"
    "  cotune compare runs/before runs/after --report difference.html"
)
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another run, tested on the same rows.")],
    report: Annotated[Path | None, typer.Option(help="Also write the comparison as one offline HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the bundles of two runs row by row on the same test: difference, 95% interval, p-value."""
    from cotune.cycle.runs.side_by_side import compare_runs

    found = compare_runs(first, second)
    if report is not None:
        from cotune.report.html.comparison import write_comparison

        write_comparison(report, found.for_page())
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
        return
    from cotune.evaluate.gain_sentences import points_text, uncertainty_text

    tell(f"{found.metric.replace('_', ' ')} on the same {counted(found.n, 'test row')}: {first} {found.scores[0]:.3f}, "
         f"{second} {found.scores[1]:.3f}")  # fmt: skip
    verb = "gains" if found.gain.value >= 0 else "loses"
    verdict = "" if found.gain.significant() else ": no significant difference"
    tell(f"{second} {verb} {points_text(found.gain.value)} ({uncertainty_text(found.gain.ci, found.gain.p)}, paired){verdict}.")
    tell(f"Right in the first only: {counted(found.only_first, 'row')}; in the second only: {found.only_second}.")
    if found.remark:
        tell(found.remark)
    if report is not None:
        tell(f"Report: {report}")
