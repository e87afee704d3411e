"""Prompt edits: small pure changes of a Prompt, by name in ``OPERATORS``.

An edit returns None if it does not apply or changes nothing. No edit removes an input field or text that a user wrote into the
input template, makes two label words equal, or copies text from the rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cotune.errors import InputError
from cotune.plugins import EDITS_GROUP, Plugin, plugins
from cotune.prompt.bank import explanation, sample_line
from cotune.prompt.prompt import PLACEHOLDER, Prompt
from cotune.prompt.words import LABEL_STYLES, MANY_LABELS, capitalise, field_name, item_noun, kind_noun, label_words
from cotune.refine.template import STYLES, read_template, write_template
from cotune.refine.wording import LENGTHENERS, instruction_wording, list_sentence, paraphrases, sentences
from cotune.task.task import Task
from cotune.task.values.kinds.base import Mode

SEPARATORS = ("\n", "\n\n", " ", " | ")
# A longer instruction contains more than the wordings here, so it is not replaced by one of them.
_REPLACEABLE = 300

Edit = Callable[[Prompt, "Task", np.random.Generator], Prompt | None]
Format = Callable[[Prompt, np.random.Generator], Prompt | None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Operator:
    """A named edit.

    Attributes:
        name: its key in ``OPERATORS``.
        preserves_meaning: whether only the format changes, so that it can be used to measure robustness.
    """

    name: str
    edit: Edit
    preserves_meaning: bool = False

    def __call__(self, prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
        """The changed prompt; None if the edit does not apply, changes nothing or would break the prompt."""
        changed = self.edit(prompt, task, rng)
        return None if changed is None or changed == prompt or not sound(changed, task, [prompt]) else changed


def sound(child: Prompt, task: Task, parents: Sequence[Prompt]) -> bool:
    """Whether the child shows each input field as often as a parent does, has no new field, and has distinct label words."""
    shown, before = _counts(child), [_counts(parent) for parent in parents]
    names = set(task.input_fields).union(*before)
    words = child.words(task.labels)
    return (
        all(shown[field] > 0 for field in task.input_fields if any(count[field] for count in before))
        and all(shown[field] <= max(count[field] for count in before) for field in task.input_fields)
        and set(shown) <= names | {"labels"}
        and len(set(words)) == len(words)
        and all(words)
    )


def _counts(prompt: Prompt) -> Counter[str]:
    return Counter(PLACEHOLDER.findall("\n".join((prompt.system or "", *prompt.parts))))


def _other(rng: np.random.Generator, options: Sequence[_T], current: _T) -> _T | None:
    left = [option for option in dict.fromkeys(options) if option != current]
    return left[int(rng.integers(len(left)))] if left else None


def _exchanged(prompt: Prompt, part: str, options: Sequence[str], rng: np.random.Generator) -> Prompt | None:
    """A copy with another one of the options as a part; None if there is no other."""
    chosen = _other(rng, options, getattr(prompt, part))
    return None if chosen is None else prompt.edit(**{part: chosen})


# Instruction ----------------------------------------------------------------------------------------------------------


def _reword(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    if len(prompt.instruction) > _REPLACEABLE:
        return None
    form = task.output.form
    listed = bool(form) and form in prompt.instruction
    return prompt.edit(instruction=instruction_wording(task, listed, rng))


def _paraphrase(prompt: Prompt, _task: Task, rng: np.random.Generator) -> Prompt | None:
    return _exchanged(prompt, "instruction", paraphrases(prompt.instruction), rng)


def _drop_sentence(prompt: Prompt, _task: Task, rng: np.random.Generator) -> Prompt | None:
    pieces = sentences(prompt.instruction)
    if len(pieces) < 2:
        return None
    del pieces[int(rng.integers(len(pieces)))]
    return prompt.edit(instruction="".join(pieces).strip())


def _clear_instruction(prompt: Prompt, _task: Task, _rng: np.random.Generator) -> Prompt | None:
    return prompt.edit(instruction="")


def _lengthen(prompt: Prompt, _task: Task, rng: np.random.Generator) -> Prompt | None:
    fresh = [line for line in LENGTHENERS if line not in prompt.instruction]
    line = _other(rng, fresh, prompt.instruction)
    return None if line is None or not prompt.instruction else _appended(prompt, line)


def _explain_labels(prompt: Prompt, task: Task, _rng: np.random.Generator) -> Prompt | None:
    words = prompt.words(task.labels)
    line = explanation(words, item_noun(task)) or sample_line(words)
    return None if line is None or line in prompt.instruction else _appended(prompt, line)


def _toggle_form(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    """Add or remove the description of the answers: the list of labels, or a sentence."""
    return _TOGGLES[task.output.kind.mode](prompt, task, rng)


def _toggle_label_list(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    if "{labels}" not in prompt.instruction:
        if "{labels}" in (prompt.system or "") + prompt.cue or len(task.labels) > MANY_LABELS:
            return None
        return _appended(prompt, list_sentence(rng))
    kept = [piece for piece in sentences(prompt.instruction) if "{labels}" not in piece]
    return prompt.edit(instruction="".join(kept).strip())


def _toggle_form_sentence(prompt: Prompt, task: Task, _rng: np.random.Generator) -> Prompt | None:
    form = task.output.form
    if not form or form in (prompt.system or "") + prompt.cue:
        return None
    if form in prompt.instruction:
        return prompt.edit(instruction=prompt.instruction.replace(form, "").strip())
    return _appended(prompt, form)


_TOGGLES: Mapping[Mode, Edit] = {"choose": _toggle_label_list, "write": _toggle_form_sentence}


def _appended(prompt: Prompt, line: str) -> Prompt:
    return prompt.edit(instruction=f"{prompt.instruction.rstrip()} {line}".strip())


def _casing(prompt: Prompt, rng: np.random.Generator) -> Prompt | None:
    pieces = sentences(prompt.instruction)
    small = "".join(re.sub(r"^(\s*)([A-Z])(?=[a-z])", lambda m: m[1] + m[2].lower(), piece) for piece in pieces)
    large = "".join(re.sub(r"^(\s*)([a-z])", lambda m: m[1] + m[2].upper(), piece) for piece in pieces)
    return _exchanged(prompt, "instruction", (small, large), rng)


def _move_instruction(prompt: Prompt, _task: Task, _rng: np.random.Generator) -> Prompt | None:
    if prompt.instruction and not prompt.system:
        return prompt.edit(instruction="", system=prompt.instruction)
    if prompt.system and not prompt.instruction:
        return prompt.edit(instruction=prompt.system, system=None)
    return None


# Label words, system text ---------------------------------------------------------------------------------------------


def _label_words(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    current = prompt.edit(label_words=tuple(pair for pair in prompt.label_words if pair[0] != pair[1])).label_words
    chosen = _other(rng, [label_words(task.labels, style) for style in LABEL_STYLES], current)
    return None if chosen is None else with_words(prompt, chosen, task)


def with_words(prompt: Prompt, chosen: tuple[tuple[str, str], ...], task: Task) -> Prompt | None:
    """A copy with other label words. A text that names all the old words, or shows three of them, is updated.

    Returns None if a new word contains braces and such a text would have to contain it.
    """
    changed = prompt.edit(label_words=chosen)
    old, new = prompt.words(task.labels), changed.words(task.labels)
    table = {a: b for a, b in zip(old, new, strict=True) if a != b}
    sample = sample_line(old)
    shows = sample is not None and sample in prompt.instruction
    text = f"{prompt.system or ''}\n{prompt.instruction}"
    if not table or not (shows or all(word in text for word in table)):
        return changed
    if any("{" in word or "}" in word for word in table.values()):
        return None
    if shows and sample is not None:
        return changed.edit(instruction=prompt.instruction.replace(sample, sample_line(new) or "").strip())
    words = "|".join(map(re.escape, sorted(old, key=len, reverse=True)))
    pattern = re.compile(rf"{PLACEHOLDER.pattern}|(?<!\w)(?:{words})(?!\w)")

    def follow(part: str) -> str:
        return pattern.sub(lambda match: table.get(match[0], match[0]), part)

    return changed.edit(instruction=follow(prompt.instruction), system=None if prompt.system is None else follow(prompt.system))


def _system(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    if prompt.system and (len(prompt.system) > 120 or "{" in prompt.system or not prompt.instruction):
        return None
    options = (
        None,
        "",
        "You are a careful annotator.",
        "You give short answers.",
        *(text.replace("<kind>", kind_noun(task)) for text in task.output.kind.systems),
    )
    chosen = _other(rng, [*options], prompt.system)
    return prompt.edit(system=chosen)


# Format ---------------------------------------------------------------------------------------------------------------


def _order(prompt: Prompt, _rng: np.random.Generator) -> Prompt | None:
    if not prompt.instruction:
        return None
    return prompt.edit(order="input_first" if prompt.order == "instruction_first" else "instruction_first")


def _separator(prompt: Prompt, rng: np.random.Generator) -> Prompt | None:
    if not prompt.instruction and not prompt.cue:
        return None
    return _exchanged(prompt, "separator", SEPARATORS, rng)


def _field_style(prompt: Prompt, rng: np.random.Generator) -> Prompt | None:
    shown = read_template(prompt.input_template)
    if shown is None or all(name is None for name, _ in shown):
        return None
    return _exchanged(prompt, "input_template", [write_template(shown, style) for style in STYLES], rng)


def _cue_style(prompt: Prompt, rng: np.random.Generator) -> Prompt | None:
    match = re.fullmatch(r"(?:\#{1,4} )?([\w][\w ]{0,40}?) ?(?::|=|->)?", prompt.cue)
    if match is None:
        return None
    name = capitalise(match[1].lower() if match[1].isupper() else match[1])
    styles = [f"{name}:", f"{name} =", f"### {name}", f"{name.upper()}:", f"{name.lower()}:", f"{name} ->"]
    return _exchanged(prompt, "cue", styles, rng)


def _cue(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    item, kind = item_noun(task), kind_noun(task)
    options = ["", "Answer:", f"{capitalise(kind)}:", "Output:", f"What is the {kind} of this {item}?"]
    return _exchanged(prompt, "cue", [*options, *task.output.kind.cues], rng)


def _field_names(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
    shown = read_template(prompt.input_template)
    if shown is None:
        return None
    single = len(shown) == 1
    extra = (item_noun(task), "text", "input") if single else ()
    named: list[list[tuple[str | None, str]]] = [[(capitalise(field_name(field)), field) for _, field in shown]]
    named += [[(capitalise(word), field) for _, field in shown] for word in extra]
    named.append([(None, field) for _, field in shown])
    return _exchanged(prompt, "input_template", [write_template(names, "colon") for names in named], rng)


FORMATS: dict[str, Format] = {
    "order": _order,
    "separator": _separator,
    "field_style": _field_style,
    "cue_style": _cue_style,
    "casing": _casing,
}


def _taskless(change: Format) -> Edit:
    return lambda prompt, _task, rng: change(prompt, rng)


_MEANING: dict[str, Edit] = {
    "reword": _reword,
    "paraphrase": _paraphrase,
    "drop_sentence": _drop_sentence,
    "clear_instruction": _clear_instruction,
    "lengthen": _lengthen,
    "explain_labels": _explain_labels,
    "toggle_label_list": _toggle_form,
    "move_instruction": _move_instruction,
    "label_words": _label_words,
    "system": _system,
    "cue": _cue,
    "field_names": _field_names,
}

OPERATORS: dict[str, Operator] = {
    **{name: Operator(name, edit) for name, edit in _MEANING.items()},
    **{name: Operator(name, _taskless(change), preserves_meaning=True) for name, change in FORMATS.items()},
}


def operators() -> dict[str, Operator]:
    """All edits by name: those of ``OPERATORS``, then those of installed packages, in alphabetical order.

    Raises:
        InputError: two edits have the same name, or a package's edit cannot be loaded; the message names the package.
    """
    return {**OPERATORS, **{name: _from_package(plugin) for name, plugin in plugins(EDITS_GROUP, OPERATORS).items()}}


def _from_package(plugin: Plugin) -> Operator:
    found = plugin.load_as(callable, "and neither a cotune.refine.edits.Operator nor a function")
    given = found if isinstance(found, Operator) else Operator(plugin.name, found)
    hint = "Uninstall the package, or ask its author to correct it."

    def edit(prompt: Prompt, task: Task, rng: np.random.Generator) -> Prompt | None:
        try:
            changed = given.edit(prompt, task, rng)
        except Exception as error:
            told = f"the prompt edit {plugin.name!r} failed ({type(error).__name__}: {error})"
            raise InputError(told, where=plugin.where, hint=hint) from error
        if changed is not None and not isinstance(changed, Prompt):
            told = f"the prompt edit {plugin.name!r} returned a {type(changed).__name__} instead of a Prompt or None"
            raise InputError(told, where=plugin.where, hint=hint)
        return changed

    return Operator(plugin.name, edit, given.preserves_meaning)


def format_variants(prompt: Prompt, n: int, rng: np.random.Generator) -> list[Prompt]:
    """Up to ``n`` distinct prompts with the same content in other formats, to measure robustness.

    Each differs from the prompt by one to three format edits (FormatSpread, arXiv 2310.11324). Only a few, at least one, may
    have the parts in another order: if the row comes first, the rest of the prompt is not a shared prefix, and each row costs
    several times as much.
    """
    made: dict[str, Prompt] = {}
    names = list(FORMATS)
    reordered = max(1, n // len(FORMATS))
    for _ in range(20 * n):
        if len(made) >= n:
            break
        child = prompt
        for place in rng.permutation(len(names))[: int(rng.integers(1, 4))]:
            child = FORMATS[names[place]](child, rng) or child
        if child.id == prompt.id or child.id in made:
            continue
        if child.order != prompt.order:
            if not reordered:
                continue
            reordered -= 1
        made[child.id] = child
    return list(made.values())
