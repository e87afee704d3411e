"""Shorten the texts of a row that is too long for a prompt. Exports contain this file, so it imports nothing of cotune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

Truncation = Literal["middle", "end"]
"""What a text that is too long loses."""
TRUNCATIONS: tuple[Truncation, ...] = get_args(Truncation)
GAP = " … "
"""What is shown in place of a middle."""
ENDING = 0.25
"""Share of the tokens of a text without its middle that come from its end.

A probe of 96 tokens from the beginning of speeches and 32 from the end is better than one of 128 from the beginning; on emails
and reviews the difference is within that of draws (docs/probe-measurements.md). For film reviews, Sun et al. (arXiv 1905.05583)
found both ends better than either.
"""
Spans = Sequence[tuple[int, int]]
"""Start and end of each token of a text, in characters."""


class PromptTooLongError(ValueError):
    """A prompt is longer than the limit even without a row; ``tokens`` is its length."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"the prompt alone is {tokens} tokens long")
        self.tokens = tokens


def shorten(
    texts: Mapping[str, str],
    shown: Mapping[str, int],
    most: int,
    truncate: Truncation,
    encode: Callable[[Mapping[str, str]], list[int]],
    spans: Callable[[str], Spans],
) -> tuple[dict[str, str], list[int]]:
    """A row's texts, shortened until the prompt has at most ``most`` tokens, and the prompt's token ids.

    Args:
        texts: the row's texts by field; with all of them the prompt is too long.
        shown: the fields that the prompt shows, and how often; the others are left as they are.
        encode: token ids of the prompt filled with texts.
        spans: places of the tokens of a text by itself.

    Raises:
        PromptTooLongError: nothing of the row fits.
    """
    alone = len(encode(dict.fromkeys(texts, "")))
    if alone > most:
        raise PromptTooLongError(alone)
    places, gap, left = {name: spans(texts[name]) for name in shown}, len(spans(GAP)), most - alone
    while True:
        length = equal_length([(len(places[name]), times) for name, times in shown.items()], left)
        found = {**texts, **{name: cut_to(length, texts[name], own, truncate, gap) for name, own in places.items()}}
        ids = encode(found)
        if len(ids) <= most:
            return found, ids
        # Where tokens cross the border to the prompt, or to what is shown for the middle, there may be more of them.
        left = max(0, left - (len(ids) - most))


def whole_text(template: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """The ``pieces`` of an export's ``template.json`` with a row's texts between them."""
    return "".join(piece if isinstance(piece, str) else texts[piece["field"]] for piece in template["pieces"])


def prompt_ids(
    template: Mapping[str, Any],
    texts: Mapping[str, str],
    ids: list[int],
    encode: Callable[[str], list[int]],
    spans: Callable[[str], Spans],
) -> list[int]:
    """Token ids that an exported model reads of a row, up to the position at which it answers.

    Args:
        ids: those of the :func:`whole_text`.
        encode: token ids of a whole text.
        spans: as for :func:`shorten`.
    """
    # The tokenizer may add an end token, which is not counted.
    most = template["max_tokens"] + template["ends"]
    if len(ids) > most:
        shown = Counter(piece["field"] for piece in template["pieces"] if not isinstance(piece, str))
        ids = shorten(texts, shown, most, template["truncate"], lambda given: encode(whole_text(template, given)), spans)[1]
    return ids[: len(ids) - template["beyond"]]


def cut_to(most: int, text: str, spans: Spans, truncate: Truncation, gap_tokens: int) -> str:
    """A text cut to about ``most`` tokens.

    Args:
        spans: places of the tokens of ``text``.
        gap_tokens: tokens of :data:`GAP`.
    """
    # First, since a text that has no tokens alone may have some in the prompt.
    if not most:
        return ""
    if len(spans) <= most:
        return text
    ending = int((most - gap_tokens) * ENDING) if truncate == "middle" else 0
    if ending < 1:
        return text[: spans[most][0]]
    beginning = most - gap_tokens - ending
    return f"{text[: spans[beginning][0]].rstrip()}{GAP}{text[spans[-ending - 1][1] :].lstrip()}"


def equal_length(fields: Sequence[tuple[int, int]], most: int) -> int:
    """Length to which all longer fields of a row are cut, so that together they have at most ``most`` tokens.

    Args:
        fields: tokens of each field, and how often the prompt shows it.
        most: 0 or more.
    """
    times = sum(shown for _, shown in fields)
    for tokens, shown in sorted(fields):
        if tokens * times > most:
            return most // times
        most, times = most - tokens * shown, times - shown
    return max((tokens for tokens, _ in fields), default=0)
