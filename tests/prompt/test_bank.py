"""The starting bank: drafted from names and labels alone, different prompts, distinct label words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.prompt.bank import bare_prompt, explanation, sample_line, seed_prompt, starting_bank
from cotune.prompt.prompt import substitute
from cotune.prompt.words import LABEL_STYLES, humanise, item_noun, kind_noun, label_words

FEW = ("card_arrival", "AddToPlaylist", "human", "NUM")


def make_task(labels: Sequence[str] = FEW, fields: Sequence[str] = ("input",), output: str = "output", end: str = ".") -> Task:
    rows = [
        {**{name: f"zebra row {i} of {name}{end}" for name in fields}, output: labels[i % len(labels)]}
        for i in range(8 * len(labels) + 40)
    ]
    return Task.from_rows(rows, input=list(fields), output=output)


MANY = tuple(f"topic_{a}{b}" for a in "abcdef" for b in "uvwxyz")
SHAPES = [
    make_task(),
    make_task(MANY),
    make_task(fields=("title", "body_text"), output="queue_name"),
    make_task(("yes", "no"), end="?"),
    make_task(("{input}", "a{b", "labels", "{labels}")),
    make_task(("0", "1", "2"), ("ticket",), "intent"),
    make_task(("positive", "negative"), ("review",), "sentiment"),
]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("card_arrival", "card arrival"),
        ("AddToPlaylist", "add to playlist"),
        ("playMusic", "play music"),
        ("HTTPError", "HTTP error"),
        ("human", "human"),
        ("NUM", "NUM"),
        ("Human", "Human"),
        ("Already written Label", "Already written Label"),
        ("__", ""),
        ("e-mail", "e-mail"),
    ],
)
def test_humanise(name: str, words: str) -> None:
    assert humanise(name) == words


@given(
    st.lists(
        st.text(st.sampled_from("aAbB_ {}"), min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=8, unique=True
    ),
    st.sampled_from(LABEL_STYLES),
)
def test_label_words_are_distinct_and_never_empty(labels: list[str], style: str) -> None:
    table = dict(label_words(labels, style))  # type: ignore[arg-type]
    words = [table.get(label, label) for label in labels]
    assert len(set(words)) == len(labels) and all(word.strip() for word in words)
    assert all(label != word for label, word in table.items())


def test_labels_that_want_one_word_fall_back_to_themselves() -> None:
    assert label_words(["a_b", "aB", "c_d"], "human") == (("c_d", "c d"),)
    # The fallback of one can take the word of another, which then falls back too.
    words = dict(label_words(["Ab", "ab", "AB_", "AB"], "lower"))
    assert len({words.get(label, label) for label in ("Ab", "ab", "AB_", "AB")}) == 4


def test_nouns_come_from_the_field_names_or_from_rows_that_ask() -> None:
    assert (item_noun(make_task()), kind_noun(make_task())) == ("text", "category")
    assert item_noun(make_task(end="?")) == "question"
    named = make_task(fields=("supportTicket",), output="queue_name")
    assert (item_noun(named), kind_noun(named)) == ("support ticket", "queue name")


def test_the_seed_prompt_reads_as_a_person_would_write_it() -> None:
    prompt = seed_prompt(make_task(fields=("question",), output="type"))
    assert prompt.text == "Classify the question. Answer with one of: {labels}.\nQuestion: {question}\nType:"
    assert prompt.words(FEW) == ("card arrival", "add to playlist", "human", "NUM")


def test_the_bare_prompt_is_the_fields_alone() -> None:
    prompt = bare_prompt(make_task(fields=("title", "body_text")))
    assert (prompt.text, prompt.instruction, prompt.cue, prompt.system) == ("{title}\n{body_text}", "", "", None)


@pytest.mark.parametrize("task", SHAPES, ids=repr)
def test_the_bank_is_about_twenty_clearly_different_prompts(task: Task) -> None:
    bank = starting_bank(task)
    assert 18 <= len(bank) <= 24 and len({prompt.id for prompt in bank}) == len(bank)
    assert len({(prompt.system, prompt.text) for prompt in bank}) == len(bank)
    assert bank[:2] == [seed_prompt(task), bare_prompt(task)]
    assert {prompt.order for prompt in bank} == {"instruction_first", "input_first"}
    assert len({prompt.cue for prompt in bank}) >= 5 and len({prompt.separator for prompt in bank}) >= 3
    assert {None, ""} < {prompt.system for prompt in bank}


@pytest.mark.parametrize("task", SHAPES, ids=repr)
def test_every_bank_prompt_shows_each_field_once_and_has_distinct_words(task: Task) -> None:
    values = dict.fromkeys(task.input_fields, "\u2603")
    for prompt in starting_bank(task):
        whole = "\n".join((prompt.system or "", *prompt.parts))
        assert all(whole.count(f"{{{field}}}") == 1 for field in task.input_fields)
        assert set(prompt.placeholders) <= {*task.input_fields, "labels"}
        assert substitute(whole, values).count("\u2603") == len(task.input_fields)
        assert len(set(prompt.words(task.labels))) == len(task.labels)
        assert "zebra" not in whole


def test_many_labels_are_never_all_listed() -> None:
    for prompt in starting_bank(make_task(MANY)):
        assert "{labels}" not in prompt.text + (prompt.system or "")
        assert sum(humanise(label) in prompt.text for label in MANY) <= 3
    assert sum("{labels}" in prompt.text for prompt in starting_bank(make_task())) >= 5


def test_words_with_braces_are_never_written_into_a_text() -> None:
    assert explanation(("{input}", "b"), "text") is None
    assert sample_line(("a", "{labels}", "c")) is None
    assert explanation(("spam", "ham"), "text") == 'For each text say "spam" when it is about spam; "ham" when it is about ham.'
