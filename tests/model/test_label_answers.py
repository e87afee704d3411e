"""From what an endpoint says to label probabilities: shared first tokens, missing labels, words in sentences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.model.remote.label_answers import FLOOR, label_log_probs, match_label, named_log_probs


def at(*pairs: tuple[str, float]) -> list[tuple[str, float]]:
    return [(token, math.log(p)) for token, p in pairs]


def shares(positions: list[list[tuple[str, float]]], *words: str) -> list[float]:
    found = label_log_probs(positions, words)
    assert found is not None
    return [float(p) for p in np.exp(found)]


def test_first_tokens_that_differ_are_read_and_renormalised() -> None:
    first = at(("pos", 0.6), ("neg", 0.2), ("The", 0.1), ("neutral", 0.05))
    assert shares([first], "positive", "negative") == pytest.approx([0.75, 0.25])


def test_spellings_of_one_label_are_added() -> None:
    first = at((" Yes", 0.4), ("yes", 0.2), ("**Yes", 0.1), (" no", 0.2), ("No", 0.1))
    assert shares([first], "yes", "no") == pytest.approx([0.7, 0.3])


def test_a_label_is_known_with_underscores_or_blanks_unless_that_tells_two_apart() -> None:
    first = at(("card_arrival", 0.7), ("Card arrival", 0.1), ("lost_card", 0.2))
    assert shares([first], "card arrival", "lost card") == pytest.approx([0.8, 0.2])
    assert shares([first], "Card_Arrival", "lost_card") == pytest.approx([0.8, 0.2])
    pair = at(("card_arrival", 0.7), ("Card arrival", 0.3))
    assert shares([pair], "card arrival", "card_arrival") == pytest.approx([0.3, 0.7])


def test_a_shared_first_token_is_told_apart_by_the_next() -> None:
    first = at(("card", 0.8), ("refund", 0.2))
    second = at((" arrival", 0.75), (" delivery", 0.25))
    assert shares([first, second], "card arrival", "card delivery", "refund") == pytest.approx([0.6, 0.2, 0.2])


def test_a_shared_token_that_was_not_taken_is_split_equally() -> None:
    first = at(("refund", 0.6), ("card", 0.4))
    assert shares([first, at((".", 1.0))], "card arrival", "card delivery", "refund") == pytest.approx([0.2, 0.2, 0.6])


def test_a_label_that_begins_another_ends_where_the_answer_ends() -> None:
    first = at(("card", 1.0))
    second = at(("<|im_end|>", 0.7), (" arrival", 0.3))
    assert shares([first, second], "card", "card arrival") == pytest.approx([0.7, 0.3])
    assert shares([first, at(("\n", 0.7), (" arrival", 0.3))], "card", "card arrival") == pytest.approx([0.7, 0.3])
    assert shares([first, at((".", 0.7), (" arrival", 0.3))], "card", "card arrival") == pytest.approx([0.7, 0.3])


def test_a_leading_blank_is_passed_over() -> None:
    assert shares([at(("\n", 0.9), ("spam", 0.1)), at(("ham", 0.5), ("spam", 0.5))], "ham", "spam") == pytest.approx(
        [0.45, 0.55]
    )


def test_a_label_out_of_the_top_gets_part_of_what_is_left_and_never_more_than_the_last() -> None:
    first = at(("a", 0.5), ("x", 0.3), ("y", 0.05))
    # 0.15 is left over for two labels, and neither can have been likelier than y.
    found = shares([first], "alpha", "beta", "gamma")
    assert found == pytest.approx([0.5 / 0.6, 0.05 / 0.6, 0.05 / 0.6])
    sure = shares([at(("a", 1.0))], "alpha", "beta")
    assert sure[1] == pytest.approx(FLOOR, rel=0.01)


def test_case_counts_only_where_it_tells_labels_apart() -> None:
    assert shares([at(("US", 0.6), ("us", 0.4))], "US", "us") == pytest.approx([0.6, 0.4])
    assert shares([at(("SPAM", 0.6), ("Ham", 0.4))], "spam", "ham") == pytest.approx([0.6, 0.4])


def test_an_answer_about_something_else_tells_nothing() -> None:
    assert label_log_probs([at(("I", 0.9), ("Sorry", 0.1))], ["spam", "ham"]) is None


_TOKEN = st.one_of(st.sampled_from(["card", " card", "re", "fund", " ", "\n", "<|end|>", "", "."]), st.text(max_size=4))
_POSITION = st.lists(st.tuples(_TOKEN, st.floats(-40, 0.5)), min_size=1, max_size=6)
_WORDS = st.lists(st.text(alphabet="abc _-", min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=5, unique=True)


@given(st.lists(_POSITION, min_size=1, max_size=4), st.one_of(_WORDS, st.just(["card arrival", "card", "refund", "re"])))
def test_whatever_the_server_says_comes_out_as_probabilities(
    positions: list[list[tuple[str, float]]], words: list[str]
) -> None:
    found = label_log_probs(positions, words)
    if found is not None:
        assert np.isfinite(found).all()
        assert np.exp(found).sum() == pytest.approx(1.0)


LABELS = ("card arrival", "card", "lost_or_stolen", "Refund")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("card arrival", 0),
        ("  **Card Arrival**.\n", 0),
        ("card", 1),
        ("Lost or stolen", 2),
        ("lost_or_stolen because it is gone", 2),
        ("The label is refund.", 3),
        ("It is about a card arrival, I think", 0),
        ('{"label": "refund"}', 3),
        ('```json\n{"label": "card arrival"}\n```', 0),
        ("<think>refund? no, card arrival</think>\nrefund", 3),
        ("<think>refund? I never", None),
        ("refund or card?", 3),
        ("either card or refund", None),
        ("cardboard", None),
        ("", None),
        ("I cannot help with that.", None),
    ],
)
def test_an_answer_in_words_names_a_label_or_none(text: str, label: int | None) -> None:
    assert match_label(text, LABELS) == label


@given(st.text(), _WORDS)
def test_no_answer_however_odd_does_harm(text: str, words: list[str]) -> None:
    found = match_label(text, words)
    assert found is None or 0 <= found < len(words)


def test_what_is_only_named_ranks_first_and_sums_to_one() -> None:
    for label, labels in ((1, 3), (None, 4), (0, 2)):
        found = np.exp(named_log_probs(label, labels))
        assert found.sum() == pytest.approx(1.0)
        assert label is None or found.argmax() == label


def test_a_word_at_the_end_of_a_cut_answer_may_be_the_beginning_of_a_longer_one() -> None:
    words = ("card", "card lost", "refund")
    assert match_label("It is about a card", words) == 0
    assert match_label("It is about a card", words, cut=True) is None
    assert match_label("It is about a refund", words, cut=True) == 2
    assert match_label("card. The customer asks for", words, cut=True) == 0


NUMBERS = tuple(map(str, range(1, 11)))


@pytest.mark.parametrize(
    ("words", "first", "answer"),
    [
        (NUMBERS, at(("1", 0.9), ("10", 0.05)), "1"),
        (("bug", "bug_report"), at(("bug", 0.9), ("bug_report", 0.05)), "bug"),
        (("-1", "0", "1"), at(("1", 0.9), ("-", 0.06), ("0", 0.04)), "1"),
        (("<=50K", ">50K"), at((">", 0.9), ("<=", 0.1)), ">50K"),
    ],
)
def test_the_label_that_the_answer_is_gets_its_probability(
    words: tuple[str, ...], first: list[tuple[str, float]], answer: str
) -> None:
    """A server need not send the token that ends an answer; signs and marks are part of labels that begin with them."""
    found = label_log_probs([first], words, match_label(answer, words))
    assert found is not None and words[int(found.argmax())] == answer and math.exp(found.max()) > 0.8


@pytest.mark.parametrize(
    "words", [("-1", "0", "1"), ("<=50K", ">50K"), ("C", "C#", "C++"), ("A-", "A", "A+"), ("*", "**", "***"), NUMBERS]
)
def test_labels_that_differ_in_punctuation_alone_are_told_apart(words: tuple[str, ...]) -> None:
    for place, word in enumerate(words):
        for text in (word, f" {word}\n", f'{{"label": "{word}"}}', f"The answer is {word}"):
            assert match_label(text, words) == place, text


def test_an_answer_in_other_words_is_read_from_its_text() -> None:
    """Alternatives of next to no probability say nothing, and what they support is never below what they do not."""
    first = [("The", math.log(0.999)), ("Positive", -17.0)]
    assert label_log_probs([first], ("negative", "positive")) is None
    low = [("The", math.log(0.98)), ("Positive", math.log(0.02)), ("Neg", -30.0)]
    found = label_log_probs([low], ("neutral", "positive", "negative"))
    assert found is not None and found[1] > found[2] >= found[0]


def test_labels_with_a_long_common_beginning_are_told_apart_by_the_text() -> None:
    words = ("services > cards > lost > abroad", "services > cards > lost > at home")
    tokens = ["services", " >", " cards", " >", " lost", " >"]
    positions = [at((token, 1.0)) for token in tokens]
    found = label_log_probs(positions, words, match_label(words[1], words))
    assert found is not None and math.exp(found[1]) > 0.99


def test_a_mark_after_a_label_is_not_the_beginning_of_a_longer_one() -> None:
    positions = [at(("Yes", 0.9), ("No", 0.1)), at((",", 0.95), (".", 0.05)), at((" because", 0.98), (" partly", 0.02))]
    found = shares(positions, "Yes", "Yes, partly", "No")
    assert found[0] > 0.8 and found[1] < 0.1
    assert shares([at(("1", 0.9), ("2", 0.1)), at((".", 0.9), ("", 0.1))], "1", "1.5", "2")[0] > 0.4
