"""A prompt for other labels than it was made for: new ones get words and a place in its lists, lost ones leave."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cotune.prompt.bank import explanation
from cotune.prompt.prompt import Prompt
from cotune.prompt.words import LABEL_STYLES, distinct, humanise, label_words

_BETWEEN = r"(?:,? (?:and|or) |, | / | \| |; |\n(?:[-*] )?)"


def with_labels(prompt: Prompt, before: Sequence[str], after: Sequence[str]) -> Prompt:
    """The prompt as it asks for the labels ``after``; the very same one where they are those of ``before``.

    Label words of one style go on in that style, others keep what they say, and new labels are written as people would.
    ``{labels}`` grows by itself. A list or an explanation of the labels that is written out in instruction, cue or system
    text is written anew; any other text stays as it is. Demonstrations of labels that are gone leave.

    Args:
        prompt: made for the labels ``before``.
        before: the labels that it knows.
        after: the labels that it shall know.
    """
    if set(before) == set(after):
        return prompt
    gone = set(before) - set(after)
    changed = prompt.edit(
        label_words=_words(prompt, before, after),
        demonstrations=tuple(shown for shown in prompt.demonstrations if shown.output not in gone),
    )
    old, new = prompt.words(before), changed.words(after)

    def told(text: str) -> str:
        return _listed(_explained(text, old, new), old, new)

    return changed.edit(
        instruction=told(prompt.instruction),
        cue=told(prompt.cue),
        system=None if prompt.system is None else told(prompt.system),
    )


def names_all(prompt: Prompt, labels: Sequence[str]) -> bool:
    """Whether the prompt's own text shows every label's word, or none: a text that names some misleads about the others."""
    text = "\n".join((prompt.system or "", prompt.instruction, prompt.cue))
    named = [bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)) for word in prompt.words(labels)]
    return all(named) or not any(named) or "{labels}" in text


def _words(prompt: Prompt, before: Sequence[str], after: Sequence[str]) -> tuple[tuple[str, str], ...]:
    now = dict(zip(before, prompt.words(before), strict=True))
    for style in LABEL_STYLES:
        if now == {**{label: label for label in before}, **dict(label_words(before, style))}:
            return label_words(after, style)
    return distinct({label: now.get(label, humanise(label)) for label in after})


def _explained(text: str, old: Sequence[str], new: Sequence[str]) -> str:
    """The bank's explanation of the old words exchanged for one of the new words, or taken out where none can be written."""
    found = re.search(r'For each ([^"{}\n]{1,60}) say "', text)
    line = explanation(tuple(old), found[1]) if found else None
    if found is None or line is None or line not in text:
        return text
    return text.replace(line, explanation(tuple(new), found[1]) or "").strip()


def _listed(text: str, old: Sequence[str], new: Sequence[str]) -> str:
    """A written-out list of all the old words, in whatever order, with the new ones behind and without the lost ones."""
    word = "|".join(map(re.escape, sorted(old, key=len, reverse=True)))
    quoted = rf"[\"'`]?(?:{word})[\"'`]?"
    pattern = re.compile(rf"(?<!\w){quoted}(?:{_BETWEEN}{quoted}){{{max(1, len(old) - 1)}}}(?!\w)")
    match = pattern.search(text)
    if match is None:
        return text
    shown = re.findall(rf"([\"'`]?)({word})[\"'`]?", match[0])
    if sorted(name for _, name in shown) != sorted(old):
        return text
    quote = shown[0][0]
    between = re.search(_BETWEEN, match[0][len(shown[0][1]) + 2 * len(quote) :])
    kept = [name for _, name in shown if name in new] + [name for name in new if name not in old]
    joint = between[0] if between and not between[0].strip(" ,").isalpha() else ", "
    return text[: match.start()] + joint.join(f"{quote}{name}{quote}" for name in kept) + text[match.end() :]
