"""Whether the surrogate earned its place, cycle by cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.report.html.markup import esc, figure
from cotune.report.html.record import RunRecord
from cotune.report.plain import decimal, fields, items, number

_CAPTION = (
    "Before it may thin a pool, the surrogate says of each prompt of the last race, left out in turn, how good it is; the rank "
    "correlation with what was measured stands here. A mean predictor has 0. p: how often chance does as well; above 0.1 the "
    "surrogate is off for the cycle. Held true: the rank correlation of its forecast with the race that followed."
)


def surrogate_table(record: RunRecord) -> str:
    """A line for each cycle in which a surrogate was asked; empty where none was."""
    asked = list(record.values("surrogate"))
    if not asked:
        return ""
    used = sum(value.get("on") is True for value in asked)
    head = "<tr><th>Cycle</th><th>Prompts</th><th>Correlation</th><th>p</th><th>Used</th><th>By</th><th>Held true</th></tr>"
    lines = "".join(_line(record, value) for value in asked)
    title = f"The surrogate earned its place in {used} of {len(asked)} cycle{'s' if len(asked) > 1 else ''}"
    return figure(title, f"<div class=scroll><table class=plain>{head}{lines}</table></div>", _CAPTION, kind="wide")


def _line(record: RunRecord, value: Mapping[str, Any]) -> str:
    shares = {str(name): number(share) or 0.0 for name, share in fields(value.get("shares")).items()}
    leading = sorted((name for name in shares if name != "own"), key=lambda name: -shares[name])
    by = ", ".join(f"{name} {100 * shares[name]:.0f}%" for name in leading if shares[name] >= 0.05) or "nothing it sees"
    cells = (
        esc(value.get("cycle", "?")),
        esc(value.get("n", "?")),
        decimal(value.get("correlation"), 2),
        decimal(value.get("p"), 3),
        "yes" if value.get("on") is True else "no, switched off",
        esc(by),
        _held(record, value),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _held(record: RunRecord, value: Mapping[str, Any]) -> str:
    """Rank correlation of the forecast with the log-losses of the race of the same cycle, over prompts it had not seen."""
    from scipy.stats import spearmanr

    race = next((r for r in record.values("race") if r.get("cycle") == value.get("cycle")), {})
    measured, mean = fields(race.get("log_losses")), fields(value.get("mean"))
    pairs = [(number(mean.get(i)), number(measured.get(i))) for i in map(str, items(value.get("ranked")))]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if len(known) < 3 or any(len({pair[side] for pair in known}) < 2 for side in (0, 1)):
        return "–"
    held = spearmanr([a for a, _ in known], [b for _, b in known]).statistic
    return f"{decimal(float(held), 2)} ({len(known)} prompts)"
