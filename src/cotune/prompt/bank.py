"""The starting bank: different prompts drafted from a task's field names and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotune.prompt.prompt import Order, Prompt
from cotune.prompt.words import (
    MANY_LABELS,
    LabelStyle,
    capitalise,
    field_name,
    fill_nouns,
    item_noun,
    kind_noun,
    label_words,
    written_bodies,
)
from cotune.task.task import Task
from cotune.task.values.kinds.base import Mode

FEW_LABELS = 12


def seed_prompt(task: Task) -> Prompt:
    """The seed prompt of a task without a prompt of the user's: instruction, labelled fields, cue.

    Up to twenty labels are listed; a longer list would make every pass expensive. For JSON the fields are named.
    """
    return _filled(_DRAFTS[task.output.kind.mode][:1], task)[0]


def bare_prompt(task: Task) -> Prompt:
    """A prompt of the row's fields only, with the label words of the seed prompt."""
    return _filled([_BARE], task)[0]


def explanation(words: tuple[str, ...], item: str) -> str | None:
    """A sentence that says when each word is the answer, made from the words only; None if it cannot be written.

    It is not written for more than twelve words, or for words without letters or with braces (see :func:`sample_line`).
    """
    if not 0 < len(words) <= FEW_LABELS or not all(map(_quotable, words)):
        return None
    cases = "; ".join(f'"{word}" when it is about {word}' for word in words)
    return f"For each {item} say {cases}."


def sample_line(words: tuple[str, ...]) -> str | None:
    """A sentence that shows three of many words as sample answers; None if it cannot be written.

    Words with braces are not shown, because braces are placeholders.
    """
    if not words:
        return None
    shown = (words[0], words[len(words) // 2], words[-1])
    if len(set(shown)) < 3 or not all(map(_quotable, shown)):
        return None
    return f'Answers look like "{shown[0]}", "{shown[1]}" or "{shown[2]}".'


def starting_bank(task: Task) -> list[Prompt]:
    """Up to about twenty different prompts, the most different first; the seed prompt and the bare prompt are the first two.

    With more than twenty labels none of them lists the labels. All are different.
    """
    bank = _filled(_DRAFTS[task.output.kind.mode], task)
    words = bank[0].words(task.labels)
    if line := explanation(words, item_noun(task)) if len(task.labels) <= MANY_LABELS else sample_line(words):
        plain = _filled([_EXPLAINED], task)[0]
        bank.insert(_EXPLAINED_AT, plain.edit(instruction=f"{plain.instruction} {line}"))
    return list({entry.id: entry for entry in bank}.values())


@dataclass(frozen=True)
class _Draft:
    """A prompt of the bank with placeholders for the task's nouns: ``<item>``, ``<an item>``, ``<kind>`` and ``<Kind>``.

    In prompts for generated answers ``<form>`` is the form of an answer, ``<request 1>`` a wording of the request, followed by
    the form, and ``<request>`` the first wording alone.

    Attributes:
        shown: the row's part, with ``<fields>``, ``<bare>`` or ``<quoted>`` for the input fields.
        ask: the instruction.
        unlisted: the instruction if there are too many labels to list; None for the same one.
        unlisted_system: the same for the system text.
    """

    shown: str
    cue: str = ""
    ask: str = ""
    unlisted: str | None = None
    system: str | None = None
    unlisted_system: str | None = None
    words: LabelStyle | None = "human"
    order: Order = "instruction_first"
    separator: str = "\n"


_LONG = "You are given <an item>. Read it carefully and decide which <kind> fits it best. "
_ONE = "Answer with that one and with nothing else."
_MEANT = "Decide what the <item> is about. Look at what is meant, not at single words. "
_ABOVE = "What is the <kind> of the <item> above? "
_BARE = _Draft("<bare>")
_CHOOSING = (
    _Draft(
        "<fields>",
        "<Kind>:",
        "Classify the <item>. Answer with one of: {labels}.",
        "Classify the <item>. Answer with its <kind>.",
    ),
    _BARE,
    _Draft("<fields>", "<Kind>:"),
    _Draft("<fields>", "Answer:", "Which of these is it: {labels}?", "Which <kind> is it?", order="input_first"),
    _Draft(
        "<bare>",
        system="Classify each <item>. Answer with one of: {labels}.",
        unlisted_system="Classify each <item>. Answer with its <kind> alone.",
    ),
    _Draft(
        "<fields>",
        "Answer:",
        f"{_LONG}The possible answers are: {{labels}}. {_ONE}",
        f"{_LONG}There are <count> of them, and only one is right. {_ONE}",
    ),
    _Draft("<quoted>", "The <kind> of this <item> is"),
    _Draft("<bare>", ask="Classify the <item>."),
    # A state before a one-word summary represents the meaning of the text (PromptEOL, arXiv 2307.16645).
    _Draft('This <item>: <quoted> means in one word:"'),
    _Draft("<bare>", "What is the <kind> of this <item>?", separator="\n\n"),
    _Draft(
        "<fields>",
        ask="Assign the <item> to one <kind> out of: {labels}.",
        unlisted="Assign the <item> to its <kind>.",
        system="You are an experienced annotator who works carefully.",
    ),
    _Draft("<bare>", "<Kind>:", "Options: {labels}", "Say its <kind> in a few words.", order="input_first"),
    _Draft("<fields>", "Answer:", system="", separator=" | "),
    _Draft("<fields = >", "Label =", "Choose one label: {labels}", "Choose the label that fits.", words=None),
    _Draft(
        "<fields \n>",
        "### <Kind>",
        "### Task\nFind the <kind> of <an item>.\n### Labels\n{labels}",
        "### Task\nFind the <kind> of <an item>.",
        separator="\n\n",
    ),
    _Draft("<fields>", "<Kind>:", f"{_MEANT}Then pick from: {{labels}}.", f"{_MEANT}Then give its <kind>."),
    _Draft("<bare>", ask="I will show you <an item>. Tell me its <kind>.", separator="\n\n"),
    _Draft(
        "<bare>",
        ask=f"{_ABOVE}Choose exactly one: {{labels}}.",
        unlisted=f"{_ABOVE}Answer in a few words.",
        order="input_first",
        separator="\n\n",
    ),
    _Draft("<bare>", "Label:", "Labels: {labels}", "Label by <kind>", system="", words="capital"),
    _Draft("<bare>", "->", "Classify by <kind>:", separator=" "),
    _Draft('In one word, <quoted> is about:"'),
    _Draft(
        "<fields>",
        ask="{labels}: which one?",
        unlisted="Name the <kind>.",
        system="You give short answers.",
        words="capital",
        separator="\n\n",
    ),
)
_EXPLAINED = _Draft("<fields>", "<Kind>:", "Classify the <item>.")
_EXPLAINED_AT = 8
"""Index in the bank of the prompt whose instruction explains the labels."""
_WRITING = (
    _Draft("<fields>", "<Kind>:", "<request 0>"),
    _BARE,
    _Draft("<fields>", "<Kind>:"),
    _Draft("<fields>", "Answer:", "<request 1>", order="input_first"),
    _Draft("<bare>", system="<request 0>"),
    _Draft("<fields>", "Answer:", "<request 3> Read it carefully. Do not explain."),
    _Draft("<bare>", ask="<request>"),
    _Draft("<bare>", "What is the <kind>?", separator="\n\n"),
    _Draft("<fields>", ask="<request 2>", system="You are an expert who works carefully."),
    _Draft("<fields>", "Answer:", system=""),
    _Draft("<fields>", "### <Kind>", "### Task\nFind the <kind> of <an item>.\n<form>", separator="\n\n"),
    _Draft("<bare>", "<Kind>:", "<form>"),
    _Draft("<bare>", ask="<request 4>", system="You give short answers.", separator="\n\n"),
)
_DRAFTS: Mapping[Mode, tuple[_Draft, ...]] = {"choose": _CHOOSING, "write": _WRITING}


def _filled(drafts: Sequence[_Draft], task: Task) -> list[Prompt]:
    listed = len(task.labels) <= MANY_LABELS
    bare, form = "\n".join(f"{{{field}}}" for field in task.input_fields), task.output.form
    requests = [fill_nouns(text, task) for text in written_bodies(task)]
    marks = {
        "<Kind>": capitalise(kind_noun(task)),
        "<count>": str(len(task.labels)),
        "<fields>": _field_template(task, ": "),
        "<fields = >": _field_template(task, " = "),
        "<fields \n>": _field_template(task, "\n"),
        "<bare>": bare,
        "<quoted>": f'"{bare}"' if len(task.input_fields) == 1 else bare,
        "<request>": requests[0],
        **{f"<request {place}>": f"{text} {form}".strip() for place, text in enumerate(requests)},
        "<form>": form,
    }

    def filled(text: str) -> str:
        text = fill_nouns(text, task)
        for mark, part in marks.items():
            text = text.replace(mark, part)
        return text.strip()

    def prompt(draft: _Draft) -> Prompt:
        ask = draft.ask if listed or draft.unlisted is None else draft.unlisted
        system = draft.system if listed or draft.unlisted_system is None else draft.unlisted_system
        words = () if draft.words is None else label_words(task.labels, draft.words)
        shown, cue, system = filled(draft.shown), filled(draft.cue), None if system is None else filled(system)
        return Prompt(filled(ask), shown, cue, system, words, (), draft.order, draft.separator)

    return list(map(prompt, drafts))


def _field_template(task: Task, mark: str) -> str:
    """The input fields, each after its name."""
    single = len(task.input_fields) == 1
    return "\n".join(
        f"{capitalise(item_noun(task) if single else field_name(field))}{mark}{{{field}}}" for field in task.input_fields
    )


def _quotable(word: str) -> bool:
    return not set(word) & set('{}\n"') and any(map(str.isalpha, word))
