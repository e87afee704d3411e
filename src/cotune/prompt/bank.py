"""The starting bank: different prompts drafted from a task's field names and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotune.prompt.prompt import Order, Prompt
from cotune.prompt.words import MANY_LABELS, LabelStyle, capitalise, field_name, item_noun, kind_noun, label_words
from cotune.prompt.written import fill, written_bank, written_seed
from cotune.task.values.kinds.base import Mode

if TYPE_CHECKING:
    from cotune.task.task import Task

FEW_LABELS = 12


def seed_prompt(task: Task) -> Prompt:
    """The seed prompt of a task without a prompt of the user's: instruction, labelled fields, cue.

    Up to twenty labels are listed; a longer list would make every pass expensive. For JSON the fields are named.
    """
    return _SEEDS[task.output.kind.mode](task)


def _choosing_seed(task: Task) -> Prompt:
    item, kind = item_noun(task), kind_noun(task)
    ask = "Answer with one of: {labels}." if len(task.labels) <= MANY_LABELS else f"Answer with its {kind}."
    return Prompt(
        instruction=f"Classify the {item}. {ask}",
        input_template=field_template(task),
        cue=f"{capitalise(kind)}:",
        label_words=label_words(task.labels, "human"),
    )


def bare_prompt(task: Task) -> Prompt:
    """A prompt of the row's fields only, with the label words of the seed prompt."""
    return Prompt(input_template=bare_template(task), label_words=label_words(task.labels, "human"))


def field_template(task: Task, mark: str = ": ") -> str:
    """The input fields, each after its name."""
    single = len(task.input_fields) == 1
    return "\n".join(
        f"{capitalise(item_noun(task) if single else field_name(field))}{mark}{{{field}}}" for field in task.input_fields
    )


def bare_template(task: Task) -> str:
    """The input fields without names, one per line."""
    return "\n".join(f"{{{field}}}" for field in task.input_fields)


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
    """About twenty different prompts, the most different first; the seed prompt and the bare prompt are the first two.

    With more than twenty labels none of them lists the labels. All are different.
    """
    return _BANKS[task.output.kind.mode](task)


@dataclass(frozen=True)
class _Draft:
    """A prompt of the bank with placeholders for the task's nouns: ``<item>``, ``<an item>``, ``<kind>`` and ``<Kind>``.

    Attributes:
        shown: the row's part, with ``<fields>``, ``<bare>`` or ``<quoted>`` for the input fields.
        cue: the answer cue.
        ask: the instruction if labels are listed.
        unlisted: the instruction if there are too many labels to list; None for the same one.
        system: the system text if labels are listed.
        unlisted_system: the system text if they are not listed; None for the same one.
        words: style of the label words.
        order: order of instruction and row.
        separator: text between the parts.
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
_CHOOSING = (
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
_EXPLAINED_AT = 8
"""Index in the bank of the prompt whose instruction explains the labels."""


def _choosing_bank(task: Task) -> list[Prompt]:
    listed = len(task.labels) <= MANY_LABELS
    bare = bare_template(task)
    nouns = {
        "<Kind>": capitalise(kind_noun(task)),
        "<count>": str(len(task.labels)),
        "<fields>": field_template(task),
        "<fields = >": field_template(task, " = "),
        "<fields \n>": field_template(task, "\n"),
        "<bare>": bare,
        "<quoted>": f'"{bare}"' if len(task.input_fields) == 1 else bare,
    }

    def filled(text: str) -> str:
        text = fill(text, task)
        for mark, noun in nouns.items():
            text = text.replace(mark, noun)
        return text

    def prompt(draft: _Draft) -> Prompt:
        ask = draft.ask if listed or draft.unlisted is None else draft.unlisted
        system = draft.system if listed or draft.unlisted_system is None else draft.unlisted_system
        words = () if draft.words is None else label_words(task.labels, draft.words)
        shown, cue, system = filled(draft.shown), filled(draft.cue), None if system is None else filled(system)
        return Prompt(filled(ask), shown, cue, system, words, (), draft.order, draft.separator)

    bank = [seed_prompt(task), bare_prompt(task), *map(prompt, _CHOOSING)]
    words = Prompt(label_words=label_words(task.labels, "human")).words(task.labels)
    if line := explanation(words, item_noun(task)) if listed else sample_line(words):
        plain = prompt(_Draft("<fields>", "<Kind>:", "Classify the <item>."))
        bank.insert(_EXPLAINED_AT, plain.edit(instruction=f"{plain.instruction} {line}"))
    return list({entry.id: entry for entry in bank}.values())


def _writing_seed(task: Task) -> Prompt:
    return written_seed(task, field_template(task))


def _writing_bank(task: Task) -> list[Prompt]:
    return written_bank(task, field_template(task), bare_template(task))


_SEEDS: Mapping[Mode, Callable[[Task], Prompt]] = {"choose": _choosing_seed, "write": _writing_seed}
_BANKS: Mapping[Mode, Callable[[Task], list[Prompt]]] = {"choose": _choosing_bank, "write": _writing_bank}


def _quotable(word: str) -> bool:
    return not set(word) & set('{}\n"') and any(map(str.isalpha, word))
