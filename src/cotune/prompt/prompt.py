"""The Prompt: an immutable description of how the task is put to the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

from cotune.errors import InputError, counted
from cotune.files import content_hash

Order = Literal["instruction_first", "input_first"]

FIELD_NAME = r"[^\W\d]\w*"
"""A field's name as a regular expression, see :func:`cotune.task.reading.cells.is_field_name`."""
PLACEHOLDER = re.compile(rf"\{{({FIELD_NAME})\}}")
"""A field's name in braces."""


@dataclass(frozen=True)
class Demonstration:
    """An example shown in the prompt: input fields as pairs of name and text, and the right label."""

    fields: tuple[tuple[str, str], ...]
    output: str


@dataclass(frozen=True)
class Prompt:
    """Everything that the model reads before it answers, except the row. Prompts are compared by content.

    ``{field}`` and ``{labels}`` are substituted literally, once; other braces stay unchanged.

    Attributes:
        instruction: the instruction; may be empty. ``{labels}`` is replaced by the list of label words.
        input_template: template of the row's fields, with ``{field}`` placeholders.
        cue: text after the input that introduces the answer; may be empty.
        system: the system message; None uses the chat template's default, an empty text an empty message.
        label_words: pairs of label and label word; other labels are their own words.
        demonstrations: examples shown before the input.
        nearest: number of demonstrations shown to each row, the most similar ones; 0 shows all of them to every row.
        order: whether the instruction comes before the input (long shared prefix) or after it.
        separator: the text between instruction, input and cue.
    """

    instruction: str = ""
    input_template: str = "{input}"
    cue: str = ""
    system: str | None = None
    label_words: tuple[tuple[str, str], ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    order: Order = "instruction_first"
    separator: str = "\n"
    nearest: int = 0

    @cached_property
    def id(self) -> str:
        """Content hash, 12 hex digits."""
        return content_hash(self.to_json(), 12)

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """Names in braces anywhere in the prompt's own text, in order of appearance."""
        text = "\n".join((self.system or "", self.instruction, self.input_template, self.cue))
        return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))

    def word(self, label: str) -> str:
        """The label word of ``label``."""
        return dict(self.label_words).get(label, label)

    def words(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The words for ``labels``, in their order."""
        table = dict(self.label_words)
        return tuple(table.get(label, label) for label in labels)

    def edit(self, **changes: Any) -> Prompt:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    @property
    def always_shown(self) -> tuple[Demonstration, ...]:
        """The demonstrations that are shown to every row; none with ``nearest``."""
        return () if self.nearest else self.demonstrations

    @property
    def text(self) -> str:
        """The prompt as a template text that :func:`parse_prompt` reads."""
        return self.separator.join(part for part in self.parts if part)

    @property
    def parts(self) -> tuple[str, str, str]:
        """Instruction, input and cue in the order in which they are shown."""
        if self.order == "instruction_first":
            return self.instruction, self.input_template, self.cue
        return self.input_template, self.instruction, self.cue

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` turns back into an equal prompt."""
        data = asdict(self)
        if not self.nearest:
            # Omitted by default; the ids of all prompts depend on it.
            del data["nearest"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prompt:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: a key is unknown or a value is invalid.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - names):
            raise InputError(f"unknown prompt key {unknown[0]!r}", hint=f"Known keys: {', '.join(sorted(names))}.")
        values = dict(data)
        try:
            values["label_words"] = tuple((str(a), str(b)) for a, b in data.get("label_words", ()))
            values["demonstrations"] = tuple(
                Demonstration(tuple((str(a), str(b)) for a, b in item["fields"]), str(item["output"]))
                for item in data.get("demonstrations", ())
            )
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"a prompt's label words or demonstrations have the wrong form ({error})") from error
        for name in ("instruction", "input_template", "cue", "separator", "system"):
            if not isinstance(values.get(name, ""), str) and (name != "system" or values[name] is not None):
                raise InputError(f"the prompt's {name} must be a text")
        nearest = values.get("nearest", 0)
        if type(nearest) is not int or nearest < 0 or nearest > 0 == len(values["demonstrations"]):
            raise InputError("the prompt's nearest must be a number of its demonstrations")
        if values.get("order", "instruction_first") not in ("instruction_first", "input_first"):
            raise InputError(f"unknown order {values['order']!r}", hint="Use instruction_first or input_first.")
        return cls(**values)


def unfilled(prompts: Iterable[Prompt], input_fields: Iterable[str]) -> str:
    """A sentence on words in braces that are not filled in, such as mistyped fields; empty if there are none."""
    known = {"labels", *input_fields}
    found = list(dict.fromkeys(f"{{{name}}}" for prompt in prompts for name in prompt.placeholders if name not in known))
    if not found:
        return ""
    are = "is no input field" if len(found) == 1 else "are no input fields"
    return f"{', '.join(found)} in your prompt {are}, so the model reads {'it' if len(found) == 1 else 'them'} as written"


def substitute(template: str, values: Mapping[str, str]) -> str:
    """Replace each ``{name}`` in ``values``, in one pass; substituted text is not substituted again."""
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def parse_prompt(text: str, input_fields: Iterable[str], *, where: str = "prompt") -> Prompt:
    """Parse a prompt from a template text, as a user writes it.

    Lines before the first line with a field become the instruction, lines after the last one the cue.

    Args:
        text: the template, with each input field somewhere as ``{field}``, or by the name of its column.
        where: file or key that the text came from, for errors.

    Raises:
        InputError: the text is empty, or a field of the task does not occur in it.
    """
    # Imported here because reports import this module, and the task package imports numpy.
    from cotune.task.reading.field_names import with_field_names

    names = tuple(input_fields)
    text = with_field_names(text, names)
    if not text.strip():
        raise InputError("the prompt is empty", where=where, hint=f"Write a text that contains {{{names[0]}}}.")
    placeholders = set(PLACEHOLDER.findall(text))
    if missing := [name for name in names if name not in placeholders]:
        raise InputError(
            f"the prompt never shows the input field {{{missing[0]}}}",
            where=where,
            hint=f"Put {{{missing[0]}}} where the row's text belongs.",
        )
    lines = text.strip("\n").split("\n")
    holding = [i for i, line in enumerate(lines) if set(PLACEHOLDER.findall(line)) & set(names)]
    first, last = holding[0], holding[-1]
    return Prompt(
        instruction="\n".join(lines[:first]),
        input_template="\n".join(lines[first : last + 1]),
        cue="\n".join(lines[last + 1 :]),
    )


def demonstrations_note(prompt: Prompt) -> str:
    """A note on a prompt's demonstrations, such as ``[+5 demonstrations]``; empty if it has none."""
    count = prompt.nearest or len(prompt.demonstrations)
    near = ", nearest to the row" if prompt.nearest else ""
    return f"[+{counted(count, 'demonstration')}{near}]" if count else ""


def held_rows(count: int, what: str = "bundle") -> str:
    """A note on the labelled rows in a prompt, for users who share a bundle or export; empty if there are none."""
    if not count:
        return ""
    shown, them = ("demonstrations", "them") if count > 1 else ("a demonstration", "it")
    return (
        f"The {what} holds {counted(count, 'labelled row')} of your data, as {shown} in its prompt: whoever gets it can read "
        f"{them}. A run with search.demonstrations=false shows none."
    )
