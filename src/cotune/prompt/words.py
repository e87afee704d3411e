"""Natural-language words for a task's fields and labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from cotune.task.output_columns import listed_columns
from cotune.task.task import Task

LabelStyle = Literal["human", "capital", "lower", "raw"]
LABEL_STYLES: tuple[LabelStyle, ...] = ("human", "capital", "lower", "raw")
MANY_LABELS = 20

_PLAIN_ITEMS = {"input", "inputs", "text", "x", "content", "sentence", "data", "value", "body"}
_PLAIN_KINDS = {"output", "outputs", "label", "labels", "y", "target", "class", "gold", "answer", "category", "tag", "value"}
_SHARE_OF_QUESTIONS = 0.6
_BODIES = (
    "Read the <item> and give its <kind>.",
    "Give the <kind> for the <item>.",
    "Your task is to find the <kind> of the <item>.",
    "You are given <an item>. Work out its <kind>.",
    "What is the <kind> of the <item>?",
    "Find the <kind>.",
)
_QUESTION_BODIES = (
    "Answer the <item>.",
    "Read the <item> and answer it.",
    "Give the right <kind> to the <item>.",
    "You are given <an item>. Work out the <kind>.",
    "What is the <kind> to the <item>?",
)


def humanise(name: str) -> str:
    """Convert an identifier to words: ``card_arrival`` and ``CardArrival`` become ``card arrival``; acronyms stay.

    Names with white space, or without underscores and inner capitals, stay unchanged.
    """
    words = " ".join(re.sub(r"_+", " ", name).split())
    if " " in name.strip():
        return words
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", words)
    if split == words:
        return words
    return " ".join(piece if piece.isupper() and len(piece) > 1 else piece[:1].lower() + piece[1:] for piece in split.split())


def capitalise(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def indefinite(noun: str) -> str:
    """The noun with its article: ``a message``, ``an email``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def distinct(wanted: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Distinct, non-empty label words; labels that are their own words are left out.

    If two labels would get the same word, both use the raw label.
    """
    words = {label: word if word.strip() else label for label, word in wanted.items()}
    while True:
        taken = Counter(words.values())
        torn = [label for label, word in words.items() if taken[word] > 1 and word != label]
        if not torn:
            return tuple((label, word) for label, word in words.items() if word != label)
        words.update((label, label) for label in torn)


def label_words(labels: Sequence[str], style: LabelStyle) -> tuple[tuple[str, str], ...]:
    """Words for all labels in one style, distinct; for :attr:`Prompt.label_words`."""
    spellings: dict[str, Callable[[str], str]] = {
        "human": humanise,
        "capital": lambda label: capitalise(humanise(label)),
        "lower": lambda label: humanise(label).lower(),
        "raw": lambda label: label,
    }
    spell = spellings[style]
    return distinct({label: spell(label) for label in labels})


def field_name(field: str) -> str:
    """The name of an input field in a prompt: ``ticket_text`` is ``ticket text``; never with braces or line breaks."""
    return _plain(field) or "input"


def item_noun(task: Task) -> str:
    """A noun for a row, from the field's name; ``question`` if the name is generic and most rows are questions."""
    if len(task.input_fields) > 1:
        return "item"
    name = _plain(task.input_fields[0]).lower()
    if name and name not in _PLAIN_ITEMS:
        return name
    asking = sum(row.fields[task.input_fields[0]].rstrip().endswith("?") for row in task.train)
    return "question" if asking > _SHARE_OF_QUESTIONS * len(task.train) else "text"


def kind_noun(task: Task) -> str:
    """A noun for the output, from the output field's name; the output kind's own if the name is generic or lists columns."""
    name = _plain(task.output_field).lower()
    generic = not name or name in _PLAIN_KINDS or listed_columns(task.output_field)
    return task.output.kind.noun if generic else name


def fill_nouns(text: str, task: Task) -> str:
    """Substitute the task's nouns for ``<item>``, ``<an item>`` and ``<kind>``."""
    item = item_noun(task)
    return text.replace("<an item>", indefinite(item)).replace("<item>", item).replace("<kind>", kind_noun(task))


def written_bodies(task: Task) -> tuple[str, ...]:
    """Wordings of the request for a generated answer, see :func:`fill_nouns`."""
    asked = task.output.kind.answers_questions and kind_noun(task) == "answer"
    return _QUESTION_BODIES if asked else _BODIES


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^\w '&/-]", " ", humanise(name)).split())[:40].strip()
