"""Words of a text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.task.words import MOST_WORDS, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Book a table for 2, at 9:30pm.", ["Book", "a", "table", "for", "2", ",", "at", "9", ":", "30pm", "."]),
        ("caf\u00e9 na\u00efve d'\u00e9t\u00e9", ["caf\u00e9", "na\u00efve", "d", "'", "\u00e9t\u00e9"]),
        ("\u6211\u53bb Rome\u5427", ["\u6211", "\u53bb", "Rome", "\u5427"]),
        ("\uc11c\uc6b8\uc5d0\uc11c 5\uc2dc", ["\uc11c", "\uc6b8", "\uc5d0", "\uc11c", "5", "\uc2dc"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_or_single_other_characters(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


@given(st.text())
def test_words_cover_all_but_blanks_in_order_and_without_overlap(text: str) -> None:
    spans = words_of(text)
    assert all(start < end for start, end in spans)
    assert all(before <= after for (_, before), (after, _) in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered for place, character in enumerate(text) if not character.isspace())


def test_a_very_long_text_has_a_limited_number_of_words() -> None:
    assert len(words_of("a " * (MOST_WORDS + 5))) == MOST_WORDS
