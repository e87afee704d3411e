"""The starting bank: different prompts drafted from a task's field names and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cotune.prompt.prompt import Order, Prompt
from cotune.prompt.words import MANY_LABELS, capitalise, field_name, indefinite, item_noun, kind_noun, label_words
from cotune.prompt.written import written_bank, written_seed
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


def field_template(task: Task, mark: str = ": ", between: str = "\n") -> str:
    """The input fields, each after its name."""
    single = len(task.input_fields) == 1
    return between.join(
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


def _choosing_bank(task: Task) -> list[Prompt]:
    item, kind = item_noun(task), kind_noun(task)
    title, fields, bare = capitalise(kind), field_template(task), bare_template(task)
    human, capital = label_words(task.labels, "human"), label_words(task.labels, "capital")
    words = Prompt(label_words=human).words(task.labels)
    listed = len(task.labels) <= MANY_LABELS

    def prompt(
        instruction: str,
        shown: str,
        cue: str,
        *,
        system: str | None = None,
        words: tuple[tuple[str, str], ...] = human,
        order: Order = "instruction_first",
        separator: str = "\n",
    ) -> Prompt:
        return Prompt(instruction, shown, cue, system, words, (), order, separator)

    def ask(with_list: str, without: str) -> str:
        return with_list if listed else without

    quoted = f'"{bare}"' if len(task.input_fields) == 1 else bare
    long = (
        f"You are given {indefinite(item)}. Read it carefully and decide which {kind} fits it best. "
        + ask("The possible answers are: {labels}. ", f"There are {len(task.labels)} of them, and only one is right. ")
        + "Answer with that one and with nothing else."
    )
    bank = [
        seed_prompt(task),
        bare_prompt(task),
        prompt("", fields, f"{title}:"),
        prompt(ask("Which of these is it: {labels}?", f"Which {kind} is it?"), fields, "Answer:", order="input_first"),
        prompt(
            "",
            bare,
            "",
            system=f"Classify each {item}. " + ask("Answer with one of: {labels}.", f"Answer with its {kind} alone."),
        ),
        prompt(long, fields, "Answer:"),
        prompt("", quoted, f"The {kind} of this {item} is"),
        prompt(f"Classify the {item}.", bare, ""),
        # The state before a one-word summary represents the topic of the text (PromptEOL, arXiv 2307.16645).
        prompt("", f'This {item}: {quoted} means in one word:"', ""),
        prompt("", bare, f"What is the {kind} of this {item}?", separator="\n\n"),
        prompt(
            ask(f"Assign the {item} to one {kind} out of: {{labels}}.", f"Assign the {item} to its {kind}."),
            fields,
            "",
            system="You are an experienced annotator who works carefully.",
        ),
        prompt(ask("Options: {labels}", f"Say its {kind} in a few words."), bare, f"{title}:", order="input_first"),
        prompt("", fields, "Answer:", system="", separator=" | "),
        prompt(
            ask("Choose one label: {labels}", "Choose the label that fits."),
            field_template(task, " = "),
            "Label =",
            words=(),
        ),
        prompt(
            f"### Task\nFind the {kind} of {indefinite(item)}." + ask("\n### Labels\n{labels}", ""),
            field_template(task, "\n"),
            f"### {title}",
            separator="\n\n",
        ),
        prompt(
            f"Decide what the {item} is about. Look at what is meant, not at single words. "
            + ask("Then pick from: {labels}.", f"Then give its {kind}."),
            fields,
            f"{title}:",
        ),
        prompt(f"I will show you {indefinite(item)}. Tell me its {kind}.", bare, "", separator="\n\n"),
        prompt(
            f"What is the {kind} of the {item} above? " + ask("Choose exactly one: {labels}.", "Answer in a few words."),
            bare,
            "",
            order="input_first",
            separator="\n\n",
        ),
        prompt(ask("Labels: {labels}", f"Label by {kind}"), bare, "Label:", system="", words=capital),
        prompt(f"Classify by {kind}:", bare, "->", separator=" "),
        prompt("", f'In one word, {quoted} is about:"', ""),
        prompt(
            ask("{labels}: which one?", f"Name the {kind}."),
            fields,
            "",
            system="You give short answers.",
            separator="\n\n",
            words=capital,
        ),
    ]
    if line := explanation(words, item) if listed else sample_line(words):
        bank.insert(8, prompt(f"Classify the {item}. {line}", fields, f"{title}:"))
    return list({entry.id: entry for entry in bank}.values())


def _writing_seed(task: Task) -> Prompt:
    return written_seed(task, field_template(task))


def _writing_bank(task: Task) -> list[Prompt]:
    return written_bank(task, field_template(task), bare_template(task))


_SEEDS: Mapping[Mode, Callable[[Task], Prompt]] = {"choose": _choosing_seed, "write": _writing_seed}
_BANKS: Mapping[Mode, Callable[[Task], list[Prompt]]] = {"choose": _choosing_bank, "write": _writing_bank}


def _quotable(word: str) -> bool:
    return not set(word) & set('{}\n"') and any(map(str.isalpha, word))
