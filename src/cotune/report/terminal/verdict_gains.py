"""The gains of a run as a table, each with an interpretation in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from cotune.evaluate.frozen_arms import ARMS, PREVIOUS, is_frozen, only_winner_tuned, repeated_gains
from cotune.evaluate.metric_words import p_value, signed
from cotune.report.terminal.layout import table_of
from cotune.report.terminal.plain import fields, items, number, one_line
from cotune.report.terminal.result import frozen_first

if TYPE_CHECKING:
    from rich.console import RenderableType

LEADING = "prompt_given_tuning"
"""The gain that comes first: that of the prompt search on top of tuning."""

GAIN_NAMES = {
    LEADING: "prompt, given tuning",
    "tuning": "tuning alone",
    "both": "prompt and tuning",
    "prompt": "prompt alone",
    "synergy": "synergy",
    "synergy_log_loss": "synergy, log-loss",
    "over_previous": "over the old bundle",
}
"""Names of the gains for people, the first one first."""
_WINNER_FROZEN = {LEADING: "winner over seed tuned", "both": "winner over seed prompt"}
"""Names of two gains if the winner was not tuned."""
_ONLY_WINNER_TUNED = {
    LEADING: "winner over seed prompt",
    "synergy": "tuning, winner's prompt",
    "synergy_log_loss": "tuning, winner's prompt, log-loss",
}
"""Names of gains if the seed prompt was not tuned and the winner was."""

Outcome = Literal["same arm", "no difference", "noise", "gain", "loss"]
"""What a gain turned out to be; ``noise`` is a significant difference that numerical noise could cause."""

NO_DIFFERENCE = "no significant difference"
NOISE = "within the noise of this machine"
_SAME_ARM = "the same arm"
_READINGS: dict[Outcome, tuple[str, str]] = {
    "same arm": (_SAME_ARM, "bright_black"),
    "no difference": (NO_DIFFERENCE, "yellow"),
    "noise": (NOISE, "yellow"),
    "gain": ("a gain", "green"),
    "loss": ("a loss", "red"),
}
"""Words and style of each outcome."""
_SYNERGY: dict[Outcome, tuple[str, str]] = {"gain": ("worth more together", "green"), "loss": ("they overlap", "")}
NOISE_EXCEPTED = ", where it is not within the noise of this machine."
"""Ending of the interpretation if numerical noise could explain a significant gain."""
_ALPHA = 0.05


def gains_order(frozen_first: bool) -> list[str]:
    """Names of the gains in order of display; with ``frozen_first`` the prompt's gain on frozen weights comes first."""
    leading = ("prompt", "tuning") if frozen_first else ()
    return [*leading, *(name for name in GAIN_NAMES if name not in leading)]


def gains_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The gains of a summary by name."""
    gains = fields(summary.get("gains"))
    return {str(name): fields(gain) for name, gain in gains.items() if isinstance(gain, Mapping)}


def has_gains(summary: Mapping[str, Any]) -> bool:
    """Whether there is a gain to show. If all arms have the same candidate, the verdict's first sentence says so."""
    return not all(gain.get("identical") for gain in gains_of(summary).values())


def repeated_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Gains that compare the same candidates as an earlier gain, by the arms of a summary."""
    arms, gains = fields(summary.get("arms")), gains_of(summary)
    same = {name: str(fields(arms.get(name)).get("candidate_id") or name) for name in (*ARMS, PREVIOUS)}
    return repeated_gains(same, [name for name in gains_order(frozen_first(summary)) if name in gains])


def gain_names(summary: Mapping[str, Any]) -> dict[str, str]:
    """Names of the gains by what was tuned."""
    arms = fields(summary.get("arms"))
    if only_winner_tuned(arms):
        return {**GAIN_NAMES, **_ONLY_WINNER_TUNED}
    return {**GAIN_NAMES, **(_WINNER_FROZEN if "best_tuned" in arms and is_frozen(arms, "best_tuned") else {})}


def shown_gains(summary: Mapping[str, Any]) -> list[str]:
    """Names of the gains in order of display, without those that repeat another or that could not be measured."""
    gains, left_out = gains_of(summary), set(repeated_of(summary))
    left_out |= {"tuning"} if only_winner_tuned(fields(summary.get("arms"))) else set()
    return [name for name in gains_order(frozen_first(summary)) if name in gains and name not in left_out]


def repeated_text(summary: Mapping[str, Any]) -> str:
    """A note on gains that are left out and the shown gains that they repeat; empty if there are none."""
    names = gain_names(summary)
    pairs = "; ".join(f"{names[name]} (as {names[first]})" for name, first in repeated_of(summary).items())
    return f"The same arms, and so not shown again: {pairs}." if pairs else ""


def gains_parts(summary: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    """The table of gains; in a narrow terminal the interpretations follow on separate lines."""
    from rich.text import Text

    ordered, rows = _ordered(summary), gain_rows(summary)
    styles = {name: _reading(summary, name)[1] for name in ordered}
    columns = ["gain", "value>", "95% interval", "p>", "reading"]
    needed = sum(max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True))
    shown = len(columns) if needed <= width else len(columns) - 1
    table = table_of(columns[:shown], width)
    for name, row in zip(ordered, rows, strict=True):
        bold = "bold" if name == LEADING else ""
        cells = [Text(cell, style=bold) for cell in row[:-1]] + [Text(row[-1], style=styles[name])]
        table.add_row(*cells[:shown])
    yield table
    if shown < len(columns):
        for reading in dict.fromkeys(row[-1] for row in rows):
            if reading in (NO_DIFFERENCE, NOISE, _SAME_ARM):
                alike = [(name, row[0]) for name, row in zip(ordered, rows, strict=True) if row[-1] == reading]
                yield Text(f"{reading}: {'; '.join(one for _, one in alike)}", style=styles[alike[0][0]])
    if text := repeated_text(summary):
        yield Text(text, style="bright_black")


def gain_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Name, value, interval, p-value and interpretation of each gain, without those that repeat another."""
    rows, gains, names = [], gains_of(summary), gain_names(summary)
    for name in _ordered(summary):
        gain, same = gains[name], bool(gains[name].get("identical"))
        interval, p = ("-", "-") if same else (_signed_interval(gain.get("ci"), name), _p(gain))
        title = names.get(name, one_line(name, 24))
        rows.append([title, _signed(gain.get("value"), name), interval, p, _reading(summary, name)[0]])
    return rows


def _ordered(summary: Mapping[str, Any]) -> list[str]:
    return [*shown_gains(summary), *(name for name in gains_of(summary) if name not in GAIN_NAMES)]


def gain_outcome(gain: Mapping[str, Any]) -> Outcome | None:
    """What a gain turned out to be; None if its value or its p-value is unknown."""
    if gain.get("identical"):
        return "same arm"
    value, p = number(gain.get("value")), number(gain.get("p"))
    if value is None or p is None:
        return None
    if p >= _ALPHA:
        return "no difference"
    if gain.get("within_noise"):
        return "noise"
    return "gain" if value > 0 else "loss"


def _reading(summary: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The interpretation of a gain in words, and its style."""
    outcome = gain_outcome(gains_of(summary)[name])
    if outcome is None:
        return "", ""
    synergy = name.startswith("synergy") and not only_winner_tuned(fields(summary.get("arms")))
    return _SYNERGY[outcome] if synergy and outcome in _SYNERGY else _READINGS[outcome]


def _signed(value: object, name: str) -> str:
    finite = number(value)
    if finite is None:
        return "-"
    # A log-loss in nats has no percentage points.
    return signed(finite, 3) if name.endswith("log_loss") else signed(100 * finite)


def _signed_interval(ci: object, name: str) -> str:
    ends = items(ci)
    if len(ends) != 2 or all(number(end) is None for end in ends):
        return "-"
    return " to ".join(_signed(end, name).strip() if number(end) is not None else "unknown" for end in ends)


def _p(gain: Mapping[str, Any]) -> str:
    p = number(gain.get("p"))
    return "-" if p is None else p_value(p).removeprefix("p ").removeprefix("= ")
