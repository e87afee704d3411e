"""Shorten the texts of a row that is too long for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Truncation = Literal["middle", "end"]
"""What a text that is too long loses."""
TRUNCATIONS: tuple[Truncation, ...] = get_args(Truncation)
GAP = " … "
"""What is shown in place of a middle."""
ENDING = 0.25
"""Share of the tokens of a text without its middle that come from its end.

A probe of 96 tokens from the beginning of speeches and 32 from the end is better than one of 128 from the beginning, and level
on emails (docs/probe-measurements.md). For film reviews, Sun et al. (arXiv 1905.05583) found both ends better than either.
"""


def cut_to(most: int, text: str, spans: Sequence[tuple[int, int]], truncate: Truncation, gap_tokens: int) -> str:
    """A text of about ``most`` tokens at most.

    Args:
        spans: start and end of each token of ``text``, in characters.
        gap_tokens: tokens of :data:`GAP`.
    """
    if len(spans) <= most:
        return text
    ending = int((most - gap_tokens) * ENDING) if truncate == "middle" else 0
    if ending < 1:
        return text[: spans[most][0]] if most else ""
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
