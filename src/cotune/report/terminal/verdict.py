"""The final summary of a run in the terminal: score, gains, warnings and next steps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cotune.errors import counted
from cotune.evaluate.words import (
    arm_groups,
    capitalised,
    frozen_first,
    gains_note,
    has_gains,
    metric_words,
    robustness_sentences,
)
from cotune.plain import between, decimal, fields, harmless, items, number, one_line, sentences, shipped
from cotune.prompt.prompt import held_rows
from cotune.report.terminal.advice import bundle_path, next_steps, parted
from cotune.report.terminal.layout import bullet, prompt_block
from cotune.report.terminal.lines import speaks_unicode, write_line
from cotune.report.terminal.result import (
    against_test,
    cost_facts,
    data_lines,
    interval_of,
    noise_sentence,
    previous_lines,
    references_of,
    result_title,
    result_warnings,
    search_end,
)
from cotune.report.terminal.verdict_tables import arm_marks, arm_notes, arms_table, arms_title, gains_parts, references_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_ARMS = (
    "An arm is a prompt with weights. The test rows were sealed: nothing was learnt from them or chosen on them, and they are "
    "scored once."
)
_MOST_WORDS = 20


def verdict_text(summary: Mapping[str, Any], *, width: int = 100) -> str:
    """The final summary as plain text without control codes; missing or null values are left out or shown as ``-``."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=False,
        color_system=None,
        # In a notebook, rich would display each part as a separate block and write nothing to the stream.
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
        _environ={},
    )
    _print(summary, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n") + "\n"


def quiet_text(summary: Mapping[str, Any]) -> str:
    """Score and path of the bundle on a line each, for ``--quiet``."""
    arm = shipped(summary)
    rows = f" on {counted(decimal(arm.get('n'), 0), 'test row')}" if number(arm.get("n")) is not None else ""
    score = result_title(summary)
    bundle = harmless(bundle_path(summary)) if fields(summary.get("best")).get("bundle") else ""
    return "\n".join(line for line in (f"{score}{rows}" if score else "no score", bundle) if line)


def print_verdict(summary: Mapping[str, Any], console: Console) -> None:
    """Print the final summary, in colour on a terminal and else as plain text."""
    if console.is_terminal and speaks_unicode(console.file):
        _print(summary, console)
        return
    write_line(console.file, verdict_text(summary, width=console.width).rstrip("\n"))


def _print(summary: Mapping[str, Any], console: Console) -> None:
    for part in _parts(summary, console.width):
        console.print(part, crop=False)


def _parts(summary: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    def indented(renderable: RenderableType) -> RenderableType:
        return Padding(renderable, (0, 0, 0, 2))

    def spaced(text: str, style: str) -> RenderableType:
        return Padding(Text(text, style), (1, 0, 0, 0))

    first, *rest = headline(summary)
    yield spaced(first, "bold")
    if rest:
        yield Text(" ".join(rest))
    for warning in result_warnings(summary):
        yield spaced(harmless(f"Warning: {warning}"), "yellow")
    for heading, parts in _sections(summary, width):
        if parts:
            yield spaced(heading, "bold cyan")
            yield from map(indented, parts)
    if steps := next_steps(summary):
        yield spaced("What to do next", "bold cyan")
    for step in steps:
        what, command = parted(harmless(step))
        if not command or len(step) + 4 <= width:
            yield indented(bullet(harmless(step)))
        else:
            # A command that is broken into lines cannot be pasted; outside a group, rich would ignore no_wrap.
            yield indented(bullet(what))
            yield Group(Text(f"    {command}", no_wrap=True, overflow="ignore"))


def _sections(summary: Mapping[str, Any], width: int) -> Iterator[tuple[str, list[RenderableType]]]:
    """Headings with the parts below them; a heading without parts is not printed."""
    from rich.text import Text

    arms = {str(name): fields(arm) for name, arm in fields(summary.get("arms")).items() if isinstance(arm, Mapping)}
    if arms:
        groups = arm_groups(arms)
        notes = [Text(note, style="bright_black") for note in arm_notes(summary, arm_marks(groups))]
        table = arms_table(summary, arms, groups, width)
        yield arms_title(summary, arms), [Text(_ARMS, style="bright_black"), table, *notes]
    if references := references_of(summary):
        yield "References", [references_table(references, width)]
    if has_gains(summary):
        yield "Gains, in points", [Text(gains_note(summary), style="bright_black"), *gains_parts(summary, width)]
    yield "Old and new bundle", [Text(line) for line in previous_lines(summary)]
    yield "Data", [bullet(line) for line in data_lines(summary)]
    yield "Robustness", [Text(line) for line in robustness_sentences(summary)]
    noise = noise_sentence(fields(summary.get("noise")))
    yield "Noise of this machine", [Text(f"{noise.capitalize()}.")] if noise else []
    selection = _selection(summary)
    yield "Which score to quote", [Text(selection)] if selection else []
    cost = " · ".join([value if name == "time" else f"{value} {name}" for name, value in cost_facts(summary)])
    yield "Cost", [Text(part) for part in (cost, search_end(summary)) if part]
    best = fields(summary.get("best"))
    yield "The winning prompt", _winning_prompt(best)
    if best.get("bundle"):
        held = held_rows(len(items(fields(best.get("prompt")).get("demonstrations"))))
        place = Text(harmless(bundle_path(summary)), overflow="fold")
        yield "The bundle: prompt and weights in one folder", [place, *([Text(held, style="yellow")] if held else [])]


def _winning_prompt(best: Mapping[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    if not isinstance(best.get("prompt_text"), str) or not best["prompt_text"]:
        return []
    prompt = fields(best.get("prompt"))
    system: list[RenderableType] = []
    if isinstance(prompt.get("system"), str) and prompt["system"].strip():
        system = [Text("System text:", style="bright_black"), prompt_block(prompt["system"])]
        system.append(Text("Text of each row:", style="bright_black"))
    return [*system, prompt_block(best["prompt_text"]), *map(Text, _beside(prompt))]


def _beside(prompt: Mapping[str, Any]) -> list[str]:
    """Parts of a prompt besides its texts: label words that differ from the labels, and demonstrations."""
    pairs = [pair for pair in items(prompt.get("label_words")) if len(items(pair)) == 2]
    # A label of several lines is written on one line, which is how labels are shown here.
    pairs = [pair for pair in pairs if str(pair[0]).split() != str(pair[1]).split()]
    words = [f"{one_line(label, 40)} → {one_line(word, 40)}" for label, word in pairs[:_MOST_WORDS]]
    more = f", and {len(pairs) - _MOST_WORDS} more in the bundle's prompt.json" if len(pairs) > _MOST_WORDS else ""
    lines = [f"Labels by other words: {', '.join(words)}{more}."] if words else []
    shown, nearest = items(prompt.get("demonstrations")), number(prompt.get("nearest"))
    if shown:
        count = counted(len(shown), "demonstration")
        which = f"the {decimal(nearest, 0)} of {count} that are most like the row" if nearest else f"{count} before the row"
        lines.append(f"With {which}, in the bundle's prompt.json.")
    return lines


def headline(summary: Mapping[str, Any]) -> list[str]:
    """The sentences on a finished run, the result first."""
    return sentences(harmless(summary.get("verdict") or "").strip() or "The run has ended.")


def _selection(summary: Mapping[str, Any]) -> str:
    """The test score, and how the score on dev compares with it."""
    chosen, arm = fields(summary.get("selection")), shipped(summary)
    dev, test, optimism = (number(chosen.get(key)) for key in ("dev", "test", "optimism"))
    if dev is None and test is None:
        return ""
    where = "by a fit that had not seen them" if frozen_first(summary) else "where it was chosen"
    ends, rows = interval_of(arm), number(arm.get("n"))
    on = "the sealed test" if rows is None else counted(int(rows), "sealed test row")
    interval = f" (95% interval {between(ends)})" if ends else ""
    metric = metric_words(summary.get("metric"))
    # The earlier run, whose bundle a warm start begins with, may have learnt from them.
    here = " in this run" if summary.get("previous") else ""
    text = f"{capitalised(metric)} {decimal(test)} on {on}{interval}: nothing was learnt from or chosen on them{here}. "
    judged = number(fields(summary.get("n")).get("dev"))
    text += f"The winner scored {decimal(dev)} on {'dev' if judged is None else counted(int(judged), 'dev row')}, {where}"
    if optimism is None:
        return text + "."
    if ends and ends[0] <= (dev or 0.0) <= ends[1]:
        return text + ": dev and test agree within their intervals."
    return text + f": {against_test(optimism)}."
