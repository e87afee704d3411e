"""The closing word of a run: what was reached, what it owes to what, and what to do next."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cotune.files import canonical_json
from cotune.report.advice import next_steps
from cotune.report.lines import speaks_unicode, write_line
from cotune.report.narration import ARM_NAMES
from cotune.report.plain import amount, decimal, dollars, duration, fields, harmless, items, number, one_line
from cotune.report.previous import previous_lines
from cotune.report.trust import data_lines, noise_sentence, robustness_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

LEADING = "prompt_given_tuning"
"""The gain that comes first: what the search for a prompt adds to a tuned model."""

GAIN_NAMES = {
    LEADING: "prompt, given tuning",
    "tuning": "tuning alone",
    "both": "prompt and tuning",
    "prompt": "prompt alone",
    "synergy": "synergy",
    "synergy_log_loss": "synergy, log-loss",
    "over_previous": "over the old bundle",
}
"""What the gains are called before people, the one that leads first."""

_ARM_MEANINGS = {
    "seed_prompt": "first prompt, base model",
    "prompt_only": "best prompt untuned, base model",
    "best_prompt": "winner's prompt, base model",
    "seed_tuned": "first prompt, tuned model",
    "best_tuned": "winner's prompt, tuned model",
    "previous": "what was gone on from",
}
_NO_DIFFERENCE = "no significant difference"
_NOISE = "within the noise of this machine"
_SAME_ARM = "the same arm"
_MARKS = "abcdefgh"
_PROMPT_LINES = 40
# Columns that a terminal needs to have for what an arm is, for all numbers, and for a table with two spaces between columns.
_WIDE, _NARROW, _ROOMY = 100, 60, 72
_ALPHA = 0.05


def verdict_text(summary: Mapping[str, Any], *, width: int = 100) -> str:
    """The closing word as plain text without control codes.

    Args:
        summary: as ``summary.json`` holds it; what is missing or null is left out or shown as ``-``.
        width: columns.
    """
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=False,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )
    _print(summary, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n") + "\n"


def print_verdict(summary: Mapping[str, Any], console: Console) -> None:
    """Print the closing word: in colour on a terminal, as plain text elsewhere."""
    if console.is_terminal and speaks_unicode(console.file):
        _print(summary, console)
        return
    write_line(console.file, verdict_text(summary, width=console.width).rstrip("\n"))


def _print(summary: Mapping[str, Any], console: Console) -> None:
    for part in _parts(summary, console.width):
        console.print(part)


def _parts(summary: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    def heading(text: str) -> RenderableType:
        return Padding(Text(text, style="bold cyan"), (1, 0, 0, 0))

    def indented(renderable: RenderableType) -> RenderableType:
        return Padding(renderable, (0, 0, 0, 2))

    yield Padding(Text(_headline(summary), style="bold"), (1, 0, 0, 0))
    arms = {str(name): fields(arm) for name, arm in fields(summary.get("arms")).items() if isinstance(arm, Mapping)}
    if arms:
        yield heading(_arms_title(summary, arms))
        marks = _identical(arms)
        yield indented(_arms_table(summary, arms, marks, width))
        for mark in sorted(set(marks.values())):
            names = [_arm_name(name) for name in arms if marks.get(name) == mark]
            yield indented(Text(f"({mark}) {' and '.join(names)}: one and the same candidate", style="bright_black"))
    gains = {str(name): fields(gain) for name, gain in fields(summary.get("gains")).items() if isinstance(gain, Mapping)}
    if gains:
        yield heading("Gains, in points")
        for part in _gains_parts(gains, width):
            yield indented(part)
    if lines := previous_lines(summary):
        yield heading("Old and new bundle")
        for line in lines:
            yield indented(Text(line))
    if warned := data_lines(summary):
        yield heading("Data")
        for line in warned:
            yield indented(_bullet(line))
    if lines := robustness_lines(summary):
        yield heading("Robustness")
        for line in lines:
            yield indented(Text(line))
    if noise := noise_sentence(fields(summary.get("noise"))):
        yield heading("Noise of this machine")
        yield indented(Text(f"{noise.capitalize()}."))
    if chosen := _selection(summary):
        yield heading("Selection")
        yield indented(Text(chosen))
    if cost := _cost(summary):
        yield heading("Cost")
        yield indented(Text(cost))
    best = fields(summary.get("best"))
    if isinstance(best.get("prompt_text"), str) and best["prompt_text"]:
        yield heading("The winning prompt")
        yield indented(_prompt(best["prompt_text"], width))
    if best.get("bundle"):
        yield heading("The bundle")
        yield indented(Text(harmless(best["bundle"]), overflow="fold"))
    if steps := next_steps(summary):
        yield heading("What to do next")
        for step in steps:
            yield indented(_bullet(harmless(step)))


def _headline(summary: Mapping[str, Any]) -> str:
    verdict = summary.get("verdict")
    if isinstance(verdict, str) and verdict.strip():
        return harmless(verdict.strip())
    arms = fields(summary.get("arms"))
    best = fields(arms.get("best_tuned"))
    task = summary.get("task")
    name = one_line(fields(task).get("name") or (task if isinstance(task, str) else "") or "The run", 60)
    if number(best.get("score")) is None:
        return f"{name}: ended without a measured winner."
    before = number(fields(arms.get("seed_prompt")).get("score"))
    start = f", from {before:.3f} with the first prompt and the untuned model" if before is not None else ""
    rows = f" on {best['n']} rows" if number(best.get("n")) is not None else ""
    return f"{name}: {decimal(best.get('score'))}{rows}{start}."


# Arms -------------------------------------------------------------------------------------------------------------------


def _arm_name(name: str) -> str:
    return ARM_NAMES.get(name, one_line(name, 24))


def _arms_title(summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> str:
    splits = {str(arm["split"]) for arm in arms.values() if arm.get("split")}
    where = f" on the {one_line(splits.pop(), 20)} split" if len(splits) == 1 else ""
    counts = {number(arm.get("n")) for arm in arms.values()}
    only = counts.pop() if len(counts) == 1 else None
    metric = summary.get("metric")
    named = f", {one_line(metric, 24)}" if isinstance(metric, str) and metric else ""
    return f"The arms{where}{f', {only:.0f} rows' if only is not None else ''}{named}"


def _identical(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Arm to a letter, for arms that are the same prompt, adapter and decision as another."""
    groups: dict[str, list[str]] = {}
    for name, arm in arms.items():
        if arm.get("prompt_id") and arm.get("adapter_id"):
            try:
                key = canonical_json([arm["prompt_id"], arm["adapter_id"], arm.get("decision")])
            except (TypeError, ValueError):
                continue
            groups.setdefault(key, []).append(name)
    shared = [names for names in groups.values() if len(names) > 1]
    return {name: mark for mark, names in zip(_MARKS, shared, strict=False) for name in names}


def _arms_table(
    summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], marks: Mapping[str, str], width: int
) -> Table:
    from rich.text import Text

    counts = {number(arm.get("n")) for arm in arms.values()}
    splits = {str(arm.get("split")) for arm in arms.values()}
    wide = width >= _WIDE
    columns = ["arm", *(["what it is"] if wide else []), "score>", "95% interval", "log-loss>"]
    columns += [*(["n>"] if wide or len(counts) > 1 else []), *(["split"] if len(splits) > 1 else []), "rule", "steps>"]
    if width < _NARROW:
        columns = [column for column in columns if column not in ("log-loss>", "rule", "steps>")]
    table = _table(columns, width)
    winner = _winner(summary, arms)
    for name in [*(name for name in ARM_NAMES if name in arms), *(name for name in arms if name not in ARM_NAMES)]:
        arm = arms[name]
        shown = _arm_name(name) + (f" ({marks[name]})" if name in marks else "")
        cells = {
            "arm": shown,
            "what it is": _ARM_MEANINGS.get(name, ""),
            "score>": decimal(arm.get("score")),
            "95% interval": _interval(arm.get("ci")),
            "log-loss>": decimal(arm.get("log_loss")),
            "n>": decimal(arm.get("n"), 0),
            "split": one_line(arm.get("split") or "-", 12),
            "rule": _rule(arm.get("decision")),
            "steps>": decimal(arm.get("steps"), 0),
        }
        table.add_row(*(Text(cells[column]) for column in columns), style="bold green" if name == winner else "")
    return table


def _winner(summary: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The arm that the bundle holds, as far as the summary says."""
    best = fields(summary.get("best"))
    named = best.get("arm")
    if isinstance(named, str) and named in arms:
        return named
    return "best_tuned" if "best_tuned" in arms else None


def _rule(decision: object) -> str:
    kind = decision if isinstance(decision, str) else fields(decision).get("kind")
    return one_line(kind, 10) if kind else "-"


def _interval(ci: object) -> str:
    ends = items(ci)
    if len(ends) != 2 or all(number(end) is None for end in ends):
        return "-"
    return " to ".join(decimal(end) for end in ends)


# Gains ------------------------------------------------------------------------------------------------------------------


def _gains_parts(gains: Mapping[str, Mapping[str, Any]], width: int) -> Iterator[RenderableType]:
    """The table of gains; where it has no room for their readings, these follow in lines of their own."""
    from rich.text import Text

    ordered = [*(name for name in GAIN_NAMES if name in gains), *(name for name in gains if name not in GAIN_NAMES)]
    rows, readings = [], []
    for name in ordered:
        gain, same = gains[name], bool(gains[name].get("identical"))
        interval, p = ("-", "-") if same else (_signed_interval(gain.get("ci"), name), _p(gain))
        rows.append([GAIN_NAMES.get(name, one_line(name, 24)), _signed(gain.get("value"), name), interval, p])
        readings.append(_reading(gain, name))
    columns = ["gain", "value>", "95% interval", "p (Holm)>", "reading"]
    wide = [
        max(len(cell) for cell in column)
        for column in zip(columns, *(map(str, [*r, t]) for r, (t, _) in zip(rows, readings, strict=True)), strict=True)
    ]
    in_table = sum(wide) + 2 * len(wide) <= width
    table = _table(columns if in_table else columns[:-1], width)
    for name, row, (reading, style) in zip(ordered, rows, readings, strict=True):
        cells = [Text(cell, style="bold" if name == LEADING else "") for cell in row]
        table.add_row(*cells, *([Text(reading, style=style)] if in_table else []))
    yield table
    if not in_table:
        for reading, style in dict.fromkeys(found for found in readings if found[0] in (_NO_DIFFERENCE, _NOISE, _SAME_ARM)):
            names = [row[0] for row, found in zip(rows, readings, strict=True) if found[0] == reading]
            yield Text(f"{reading}: {'; '.join(names)}", style=style)


def _reading(gain: Mapping[str, Any], name: str) -> tuple[str, str]:
    """What a gain comes to in words, and its style."""
    if gain.get("identical"):
        return _SAME_ARM, "bright_black"
    value, p = number(gain.get("value")), number(gain.get("p_holm", gain.get("p")))
    if value is None or p is None:
        return "", ""
    if p > _ALPHA:
        return _NO_DIFFERENCE, "yellow"
    if gain.get("within_noise"):
        return _NOISE, "yellow"
    if name.startswith("synergy"):
        return ("worth more together", "green") if value > 0 else ("they overlap", "")
    return ("a gain", "green") if value > 0 else ("a loss", "red")


def _signed(value: object, name: str) -> str:
    found = number(value)
    if found is None:
        return "-"
    # Nats have no hundredths that one would call points.
    text = f"{found:+.3f}" if name.endswith("log_loss") else f"{100 * found:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _signed_interval(ci: object, name: str) -> str:
    ends = items(ci)
    if len(ends) != 2 or all(number(end) is None for end in ends):
        return "-"
    return " to ".join(_signed(end, name).strip() if number(end) is not None else "unknown" for end in ends)


def _p(gain: Mapping[str, Any]) -> str:
    p = number(gain.get("p_holm", gain.get("p")))
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# The rest ---------------------------------------------------------------------------------------------------------------


def _selection(summary: Mapping[str, Any]) -> str:
    chosen = fields(summary.get("selection"))
    dev, test, optimism = (number(chosen.get(key)) for key in ("dev", "test", "optimism"))
    if dev is None and test is None:
        return ""
    text = f"The winner scored {decimal(dev)} on dev, where it was chosen, and {decimal(test)} on test"
    if optimism is None:
        return text + "."
    points = f"{100 * abs(optimism):.1f} points"
    return text + (f": dev was {points} too hopeful." if optimism > 0 else ": dev was not too hopeful.")


def _cost(summary: Mapping[str, Any]) -> str:
    cost = fields(summary.get("cost"))
    parts = []
    if number(cost.get("wall_s")) is not None:
        parts.append(duration(cost["wall_s"]))
    for key, told in (
        ("tokens_scored", "{} tokens scored"),
        ("tokens_trained", "{} trained"),
        ("tokens_embedded", "{} embedded"),
        ("tokens_saved_by_prefix", "{} saved by the shared prefix"),
    ):
        if number(cost.get(key)) is not None:
            parts.append(told.format(amount(cost[key])))
    if money := dollars(cost.get("dollars")):
        parts.append(f"{money} for answers")
    if (peak := number(cost.get("peak_rss_mb"))) is not None:
        parts.append(f"{peak / 1024:.1f} GiB of memory at most")
    return " · ".join(parts)


def _prompt(text: str, width: int) -> RenderableType:
    """The prompt as it is, its lines wrapped behind a bar, so that it stands apart from what cotune says."""
    from rich.console import Group
    from rich.text import Text

    lines = harmless(text).split("\n")
    shown = [Text(line.expandtabs(4)) for line in lines[:_PROMPT_LINES]]
    if len(lines) > _PROMPT_LINES:
        shown.append(Text(f"… and {len(lines) - _PROMPT_LINES} more lines, in the bundle's prompt.json", style="bright_black"))
    return Group(*(_behind("│ ", line) for line in shown))


def _bullet(text: str) -> RenderableType:
    from rich.text import Text

    return _behind("- ", Text(text), repeat=False)


def _behind(sign: str, text: Any, *, repeat: bool = True) -> RenderableType:
    """Wrapped text with a sign before its first line, or before each."""
    return _Behind(sign, text, repeat)


class _Behind:
    """A text whose wrapped lines all start after a sign."""

    def __init__(self, sign: str, text: Any, repeat: bool) -> None:
        self._sign, self._text, self._repeat = sign, text, repeat

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        room = max(8, options.max_width - len(self._sign))
        for number_, line in enumerate(self._text.wrap(console, room, overflow="fold")):
            sign = self._sign if self._repeat or number_ == 0 else " " * len(self._sign)
            yield Text.assemble((sign, "bright_black"), line, no_wrap=True, overflow="ignore")


def _table(columns: list[str], width: int) -> Table:
    """A table with these headings; one that ends in ``>`` is set to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None, padding=(0, 2 if width >= _ROOMY else 1, 0, 0), pad_edge=False, header_style="bright_black", show_edge=False
    )
    for place, column in enumerate(columns):
        # Where room is short the names break, never the numbers.
        table.add_column(Text(column.rstrip(">")), justify="right" if column.endswith(">") else "left", no_wrap=place > 0)
    return table
