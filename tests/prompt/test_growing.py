"""A prompt that is to ask for other labels than it was made for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.prompt.bank import explanation
from cotune.prompt.growing import names_all, with_labels
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.prompt.words import LABEL_STYLES, LabelStyle, label_words

OLD = ("card_arrival", "lost_card", "exchange_rate")
NEW = (*OLD, "top_up")


def test_the_same_labels_leave_a_prompt_as_it_is() -> None:
    prompt = Prompt("Say card arrival, lost card or exchange rate.", label_words=label_words(OLD, "human"))
    assert with_labels(prompt, OLD, tuple(reversed(OLD))) is prompt


@pytest.mark.parametrize("style", LABEL_STYLES)
def test_words_of_one_style_go_on_in_it(style: LabelStyle) -> None:
    prompt = Prompt("Answer with one of: {labels}.", "{text}", label_words=label_words(OLD, style))
    assert with_labels(prompt, OLD, NEW) == prompt.edit(label_words=label_words(NEW, style))


def test_words_of_no_style_stay_and_new_labels_are_written_as_people_would() -> None:
    prompt = Prompt("", "{text}", label_words=(("card_arrival", "arrival!"), ("lost_card", "gone")))
    assert with_labels(prompt, OLD, NEW).words(NEW) == ("arrival!", "gone", "exchange_rate", "top up")


def test_a_new_word_that_is_taken_gives_way() -> None:
    prompt = Prompt("", "{text}", label_words=(("a", "top up"), ("b", "B!")))
    words = with_labels(prompt, ("a", "b"), ("a", "b", "top_up")).words(("a", "b", "top_up"))
    assert len(set(words)) == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("One of: card arrival, lost card, exchange rate. Go.", "One of: card arrival, lost card, exchange rate, top up. Go."),
        ('Say "lost card", "exchange rate" or "card arrival".', 'Say "lost card", "exchange rate", "card arrival", "top up".'),
        ("card arrival / lost card / exchange rate", "card arrival / lost card / exchange rate / top up"),
        (
            "Labels:\n- lost card\n- card arrival\n- exchange rate",
            "Labels:\n- lost card\n- card arrival\n- exchange rate\n- top up",
        ),
    ],
)
def test_a_list_that_is_written_out_grows(before: str, after: str) -> None:
    prompt = Prompt(before, "{text}", label_words=label_words(OLD, "human"))
    grown = with_labels(prompt, OLD, NEW)
    assert grown.instruction == after
    assert names_all(grown, NEW)


def test_a_lost_label_leaves_lists_words_and_demonstrations() -> None:
    shown = tuple(Demonstration((("text", label),), label) for label in OLD)
    prompt = Prompt("One of: card arrival, lost card, exchange rate.", "{text}", demonstrations=shown)
    prompt = prompt.edit(label_words=label_words(OLD, "human"))
    left = with_labels(prompt, OLD, OLD[1:])
    assert left.instruction == "One of: lost card, exchange rate."
    assert dict(left.label_words).keys() <= set(OLD[1:])
    assert [d.output for d in left.demonstrations] == list(OLD[1:])


def test_an_explanation_is_written_anew() -> None:
    words = Prompt(label_words=label_words(OLD, "human")).words(OLD)
    prompt = Prompt(f"Classify. {explanation(words, 'text')}", "{text}", label_words=label_words(OLD, "human"))
    grown = with_labels(prompt, OLD, NEW)
    assert '"top up" when it is about top up' in grown.instruction
    many = (*OLD, *(f"more_{i}" for i in range(20)))
    assert with_labels(prompt, OLD, many).instruction == "Classify."


def test_a_text_that_names_some_labels_only_is_told() -> None:
    prompt = Prompt("It is card arrival where a card is awaited.", "{text}", label_words=label_words(OLD, "human"))
    grown = with_labels(prompt, OLD, NEW)
    assert grown.instruction == prompt.instruction
    assert not names_all(grown, NEW)
    assert names_all(prompt.edit(instruction="Say it."), OLD)


_LABEL = st.text("abc_XY ", min_size=1, max_size=6).filter(lambda label: label.strip("_ ") != "")


@given(st.lists(_LABEL, min_size=1, max_size=5, unique=True), st.lists(_LABEL, min_size=1, max_size=5, unique=True), st.text())
def test_any_labels_end_with_distinct_words_and_the_row_in_place(old: list[str], new: list[str], text: str) -> None:
    prompt = Prompt(text, "{text}", label_words=label_words(old, "human"))
    grown = with_labels(prompt, old, new)
    assert len(set(grown.words(new))) == len(set(new))
    assert grown.input_template == "{text}"


def test_a_prompt_shows_no_more_nearest_rows_than_are_left() -> None:
    """Rows of labels that are gone are removed, and with the last one the choice among them."""
    shown = tuple(Demonstration((("text", word),), label) for word, label in (("a", "lost_card"), ("b", "lost_card")))
    prompt = Prompt("", "{text}", demonstrations=shown, nearest=2)
    assert with_labels(prompt, OLD, ("card_arrival", "exchange_rate")).nearest == 0
    assert with_labels(prompt, OLD, NEW).nearest == 2
