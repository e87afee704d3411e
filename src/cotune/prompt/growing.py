"""Adapting a prompt to other labels: adding new ones to words and lists, removing lost ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cotune.prompt.bank import explanation
from cotune.prompt.prompt import Prompt
from cotune.prompt.words import LABEL_STYLES, distinct, humanise, label_words

_BETWEEN = r"(?:,? (?:and|or) |, | / | \| |; |\n(?:[-*] )?)"


def with_labels(prompt: Prompt, before: Sequence[str], after: Sequence[str]) -> Prompt:
    """Adapt a prompt to the labels ``after``; the same object if they equal ``before``.

    New label words follow the style of the old ones if they have a common style; otherwise they are written in natural
    language. ``{labels}`` needs no change. A written-out list or explanation of the labels in instruction, cue or system text
    is rewritten; other text stays unchanged. Demonstrations of removed labels are removed.
    """
    if set(before) == set(after):
        return prompt
    gone = set(before) - set(after)
    kept = tuple(shown for shown in prompt.demonstrations if shown.output not in gone)
    changed = prompt.edit(
        label_words=_words(prompt, before, after), demonstrations=kept, nearest=min(prompt.nearest, len(kept))
    )
    old, new = prompt.words(before), changed.words(after)

    def adapted(text: str) -> str:
        return _listed(_explained(text, old, new), old, new)

    return changed.edit(
        instruction=adapted(prompt.instruction),
        cue=adapted(prompt.cue),
        system=None if prompt.system is None else adapted(prompt.system),
    )


def names_all(prompt: Prompt, labels: Sequence[str]) -> bool:
    """Whether the prompt's text contains the words of all labels or of none; a text with only some is misleading."""
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
    """Replace the bank's explanation of the old words by one of the new words, or remove it if there is none."""
    match = re.search(r'For each ([^"{}\n]{1,60}) say "', text)
    line = explanation(tuple(old), match[1]) if match else None
    if match is None or line is None or line not in text:
        return text
    return text.replace(line, explanation(tuple(new), match[1]) or "").strip()


def _listed(text: str, old: Sequence[str], new: Sequence[str]) -> str:
    """Update a written-out list of all old words, in any order: append the new ones and remove the lost ones."""
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
