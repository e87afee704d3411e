"""A prompt and a row as chat messages, before tokenization.

Both the renderer's text and the requests to an endpoint are made from these turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cotune.errors import CotuneError
from cotune.prompt.prompt import Demonstration, Prompt, substitute

UNSETTLED = "this prompt shows the nearest demonstrations, but there is no chooser for them"


@dataclass(frozen=True)
class Turns:
    """A conversation.

    Attributes:
        system: the system message; None without one.
        turns: pairs of a user message and its answer; the last answer is None.
    """

    system: str | None
    turns: tuple[tuple[str, str | None], ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as chat messages."""
        result = [] if self.system is None else [{"role": "system", "content": self.system}]
        for shown, answer in self.turns:
            result.append({"role": "user", "content": shown})
            if answer is not None:
                result.append({"role": "assistant", "content": answer})
        return result


@dataclass(frozen=True)
class Shown:
    """The demonstrations of one row, and the number of tokens that were run to choose them."""

    demonstrations: tuple[Demonstration, ...]
    tokens: int


Chooser = Callable[[Prompt, Sequence[Mapping[str, str]]], Sequence[Shown]]
"""Chooses the demonstrations of each row for a prompt whose ``nearest`` is above 0."""


def settled(prompt: Prompt, rows: Sequence[Mapping[str, str]], chooser: Chooser | None) -> list[tuple[Prompt, int]]:
    """For each row the prompt with its demonstrations, and the number of tokens that were run to choose them.

    Raises:
        CotuneError: there is no chooser.
    """
    if chooser is None:
        raise CotuneError(UNSETTLED)
    return [(prompt.edit(demonstrations=s.demonstrations, nearest=0), s.tokens) for s in chooser(prompt, rows)]


def turns_of(
    prompt: Prompt, fields: Mapping[str, str], labels: Sequence[str], clean: Callable[[str], str] = lambda text: text
) -> Turns:
    """A prompt's turns for one row.

    Args:
        clean: function that removes control tokens from label words and demonstrations.

    Raises:
        CotuneError: if the prompt has nearest demonstrations that were not chosen.
    """
    if prompt.nearest:
        raise CotuneError(UNSETTLED)
    values = {"labels": ", ".join(map(clean, prompt.words(labels))), **fields}
    system = None if prompt.system is None else substitute(prompt.system, values)
    turns: list[tuple[str, str | None]] = []
    for place, shown in enumerate((*prompt.demonstrations, None)):
        own = values if shown is None else {**values, **{name: clean(text) for name, text in shown.fields}}
        answer = None if shown is None else clean(prompt.word(shown.output))
        turns.append((_body(prompt, own, first=place == 0), answer))
    return Turns(system, tuple(turns))


def _body(prompt: Prompt, values: Mapping[str, str], *, first: bool) -> str:
    instruction, shown, cue = prompt.instruction, prompt.input_template, prompt.cue
    leading = prompt.order == "instruction_first"
    parts = (instruction if first else "", shown, cue) if leading else (shown, instruction, cue)
    return prompt.separator.join(substitute(part, values) for part in parts if part)
