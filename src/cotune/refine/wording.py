"""Wordings of instructions by kind of task, and synonym rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from cotune.prompt.words import capitalise, fill_nouns, item_noun, written_bodies
from cotune.task.task import Task
from cotune.task.values.kinds.base import Mode

TaskKind = Literal["sentiment", "entailment", "yes_no", "intent", "question", "general"]

_SENTIMENT = {"positive", "negative", "neutral", "mixed", "pos", "neg", "very positive", "very negative"}
_ENTAILMENT = {"entailment", "contradiction", "neutral", "not entailment"}
_YES_NO = {"yes", "no", "true", "false", "unknown", "maybe"}

# <item>, <an item> and <kind> are replaced by the task's nouns.
_BODIES: dict[TaskKind, tuple[str, ...]] = {
    "general": (
        "Classify the <item>.",
        "Classify the <item> by its <kind>.",
        "Which <kind> does the <item> belong to?",
        "Read the <item> and decide its <kind>.",
        "Determine the <kind> of the <item>.",
        "Your task is to sort <item>s by <kind>.",
        "You will see <an item>. Name its <kind>.",
        "Find the <kind> that describes the <item> best.",
        "What <kind> is this?",
        "Look at what the <item> means, not only at its words, and give its <kind>.",
    ),
    "sentiment": (
        "What is the sentiment of the <item>?",
        "How does the writer of the <item> feel?",
        "Decide whether the <item> sounds favourable or not.",
    ),
    "entailment": (
        "Decide how the two texts relate.",
        "Does the first text imply the second?",
        "If the first text is true, what follows for the second?",
    ),
    "yes_no": ("Decide whether it holds for the <item>.", "Judge the <item>.", "Is it so?"),
    "intent": (
        "What does the writer of the <item> want?",
        "Name the intent behind the <item>.",
        "What is the user trying to do?",
    ),
    "question": (
        "What kind of answer does the question ask for?",
        "What is the question about?",
        "Decide what the asker wants to know.",
    ),
}
_WITH_LIST = (
    "Answer with one of: {labels}.",
    "Choose one of: {labels}.",
    "The options are: {labels}.",
    "Labels: {labels}.",
    "Reply with exactly one of the following: {labels}.",
)
_WITHOUT_LIST = ("", "", "Answer with the <kind> only.", "Answer in a few words.", "Give a short label.")
LENGTHENERS = (
    "Answer with nothing else.",
    "Do not explain.",
    "Exactly one answer is right.",
    "Think of what is meant, not only of the words.",
    "If several fit, take the most specific one.",
    "If unsure, give the most likely answer.",
    "Read carefully.",
)
# Synonyms; without words that often have another meaning, such as the noun "label".
_SYNONYMS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("classify", "categorize"), ("classify", "categorize", "label")),
    (("answer with", "reply with", "respond with"), ("answer with", "reply with", "respond with", "say")),
    (("exactly one of", "one of"), ("exactly one of", "one of")),
    (("the following",), ("this",)),
    (("the given", "the provided"), ("the", "the given", "the provided")),
    (("choose", "pick", "select"), ("choose", "pick", "select")),
    (("decide which", "determine which"), ("decide which", "determine which", "work out which", "say which")),
    (("carefully", "closely"), ("carefully", "closely", "attentively")),
    (("fits it best", "suits it best"), ("fits it best", "suits it best", "is right for it")),
    (("possible answers", "options", "choices"), ("possible answers", "options", "choices")),
    (("nothing else",), ("no other text",)),
    (("your task is to", "you have to"), ("your task is to", "you have to", "you shall")),
    (("you are given", "you will see", "here is"), ("you are given", "you will see", "here is")),
    (("belong to", "fall under"), ("belong to", "fall under")),
    (("do not",), ("don't", "never")),
    (("name its", "give its", "tell me its"), ("name its", "give its", "tell me its")),
)


def task_kind(task: Task) -> TaskKind:
    """The kind of task, guessed from its field names and labels; ``general`` if they give no hint."""
    labels = {label.lower().replace("_", " ") for label in task.labels}
    if labels <= _YES_NO:
        return "yes_no"
    if len(labels & _ENTAILMENT) >= 2:
        return "entailment"
    if labels <= _SENTIMENT or "sentiment" in task.output_field.lower():
        return "sentiment"
    if "intent" in task.output_field.lower():
        return "intent"
    return "question" if item_noun(task) == "question" else "general"


def instruction_wording(task: Task, listed: bool, rng: np.random.Generator) -> str:
    """Draw an instruction for the task's kind, with or without the label list or the form of an answer."""
    return _WORDINGS[task.output.kind.mode](task, listed, rng)


def _written_wording(task: Task, listed: bool, rng: np.random.Generator) -> str:
    options = written_bodies(task)
    form = task.output.form if listed else ""
    return f"{fill_nouns(options[int(rng.integers(len(options)))], task)} {form}".strip()


def _label_wording(task: Task, listed: bool, rng: np.random.Generator) -> str:
    own = _BODIES[task_kind(task)]
    bodies = _BODIES["general"] if own is _BODIES["general"] or rng.random() < 0.6 else own
    asks = _WITH_LIST if listed else _WITHOUT_LIST
    text = f"{bodies[int(rng.integers(len(bodies)))]} {asks[int(rng.integers(len(asks)))]}".strip()
    return fill_nouns(text, task)


_WORDINGS: Mapping[Mode, Callable[[Task, bool, np.random.Generator], str]] = {
    "choose": _label_wording,
    "write": _written_wording,
}


def list_sentence(rng: np.random.Generator) -> str:
    """A sentence that lists the labels."""
    return _WITH_LIST[int(rng.integers(len(_WITH_LIST)))]


def paraphrases(text: str) -> list[str]:
    """The texts that one synonym rule makes from ``text``; quoted text and braces stay unchanged."""
    pieces = re.split(r'(\{[^{}]*\}|"[^"]*")', text)
    made = []
    for place in range(0, len(pieces), 2):
        for said_now, alternatives in _SYNONYMS:
            longest_first = sorted(said_now, key=len, reverse=True)
            match = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", pieces[place], re.IGNORECASE)
            if match is None:
                continue
            for other in alternatives:
                if other == match[0].lower():
                    continue
                said = capitalise(other) if match[0][0].isupper() else other
                changed = pieces[place][: match.start()] + said + pieces[place][match.end() :]
                made.append("".join([*pieces[:place], changed, *pieces[place + 1 :]]))
    if re.match(r"Please \w", text):
        made.append(capitalise(text[len("Please ") :]))
    elif re.match(r"(?:Classify|Categorize|Label|Read|Choose|Pick|Select|Decide|Determine|Find|Answer|Name)\b", text):
        made.append(f"Please {text[0].lower()}{text[1:]}")
    return made


def sentences(text: str) -> list[str]:
    """Split a text after each sentence and before each line break; joining the parts gives the text again."""
    return [piece for piece in re.split(r"(?<=[.!?])(?=\s)|(?=\n)", text) if piece]
