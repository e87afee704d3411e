"""Prompts for generated answers: the seed prompt, and a bank of different prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cotune.prompt.prompt import Order, Prompt
from cotune.prompt.words import capitalise, indefinite, item_noun, kind_noun

if TYPE_CHECKING:
    from cotune.task.task import Task

BODIES = (
    "Read the <item> and give its <kind>.",
    "Give the <kind> for the <item>.",
    "Your task is to find the <kind> of the <item>.",
    "You are given <an item>. Work out its <kind>.",
    "What is the <kind> of the <item>?",
    "Find the <kind>.",
)
QUESTION_BODIES = (
    "Answer the <item>.",
    "Read the <item> and answer it.",
    "Give the right <kind> to the <item>.",
    "You are given <an item>. Work out the <kind>.",
    "What is the <kind> to the <item>?",
)


def bodies(task: Task) -> tuple[str, ...]:
    """Wordings of the request; ``<item>`` and ``<kind>`` are replaced by the task's nouns."""
    asked = task.output.kind.answers_questions and kind_noun(task) == "answer"
    return QUESTION_BODIES if asked else BODIES


def written_seed(task: Task, fields: str) -> Prompt:
    """The seed prompt of a task with generated answers: a request, the form of an answer, the fields, a cue."""
    return Prompt(_request(task, 0, form=True), fields, f"{capitalise(kind_noun(task))}:")


def written_bank(task: Task, fields: str, bare: str) -> list[Prompt]:
    """About a dozen different prompts, the most different first; the seed prompt and the bare prompt are the first two."""
    item, kind = item_noun(task), kind_noun(task)
    title, form = capitalise(kind), task.output.form

    def prompt(
        instruction: str,
        shown: str,
        cue: str,
        system: str | None = None,
        order: Order = "instruction_first",
        between: str = "\n",
    ) -> Prompt:
        return Prompt(instruction.strip(), shown, cue, system, (), (), order, between)

    bank = [
        written_seed(task, fields),
        Prompt(input_template=bare),
        prompt("", fields, f"{title}:"),
        prompt(_request(task, 1, form=True), fields, "Answer:", order="input_first"),
        prompt("", bare, "", system=_request(task, 0, form=True)),
        prompt(_request(task, 3, form=True) + " Read it carefully. Do not explain.", fields, "Answer:"),
        prompt(_request(task, 0, form=False), bare, ""),
        prompt("", bare, f"What is the {kind}?", between="\n\n"),
        prompt(_request(task, 2, form=True), fields, "", system="You are an expert who works carefully."),
        prompt("", fields, "Answer:", system=""),
        prompt(f"### Task\nFind the {kind} of {indefinite(item)}.\n{form}", fields, f"### {title}", between="\n\n"),
        prompt(form, bare, f"{title}:"),
        prompt(_request(task, 4, form=True), bare, "", system="You give short answers.", between="\n\n"),
    ]
    return list({entry.id: entry for entry in bank}.values())


def fill(text: str, task: Task) -> str:
    """Substitute the task's nouns."""
    item = item_noun(task)
    return text.replace("<an item>", indefinite(item)).replace("<item>", item).replace("<kind>", kind_noun(task))


def _request(task: Task, number: int, *, form: bool) -> str:
    options = bodies(task)
    text = fill(options[number % len(options)], task)
    return f"{text} {task.output.form}".strip() if form else text
