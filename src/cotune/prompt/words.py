"""Words for a task's fields and labels: what a row is called, what is asked of it, what the model says for a label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cotune.task.task import Task

LabelStyle = Literal["human", "capital", "lower", "raw"]
LABEL_STYLES: tuple[LabelStyle, ...] = ("human", "capital", "lower", "raw")
MANY_LABELS = 20

_PLAIN_ITEMS = {"input", "inputs", "text", "x", "content", "sentence", "data", "value", "body"}
_PLAIN_KINDS = {"output", "outputs", "label", "labels", "y", "target", "class", "gold", "answer", "category", "tag", "value"}
_SHARE_OF_QUESTIONS = 0.6


def humanise(name: str) -> str:
    """A name as people write it: ``card_arrival`` and ``CardArrival`` become ``card arrival``; acronyms stay.

    Names with white space or without underscores and inner capitals are words already and stay as they are.
    """
    words = " ".join(re.sub(r"_+", " ", name).split())
    if " " in name.strip():
        return words
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", words)
    if split == words:
        return words
    return " ".join(piece if piece.isupper() and len(piece) > 1 else piece[:1].lower() + piece[1:] for piece in split.split())


def capitalise(text: str) -> str:
    """The text with its first letter upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def indefinite(noun: str) -> str:
    """The noun with its article: ``a message``, ``an email``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def distinct(wanted: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Label words of which no two are equal and none is empty; labels that say themselves are left out.

    Where two labels want one word, both fall back to the raw label, until all differ.
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
    """How a prompt calls an input field: ``ticket_text`` is ``ticket text``; never with braces or line breaks."""
    return _plain(field) or "input"


def item_noun(task: Task) -> str:
    """What one row is called, from the field's name; ``question`` where that says nothing and most rows ask one."""
    if len(task.input_fields) > 1:
        return "item"
    name = _plain(task.input_fields[0]).lower()
    if name and name not in _PLAIN_ITEMS:
        return name
    asking = sum(row.fields[task.input_fields[0]].rstrip().endswith("?") for row in task.train)
    return "question" if asking > _SHARE_OF_QUESTIONS * len(task.train) else "text"


def kind_noun(task: Task) -> str:
    """What is asked of a row, from the output field's name; the kind of output's own noun where that says nothing."""
    name = _plain(task.output_field).lower()
    return task.output.kind.noun if not name or name in _PLAIN_KINDS else name


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[^\w '&/-]", " ", humanise(name)).split())[:40].strip()
