"""The Prompt: equal by content, parsed from plain text, substituted literally and once."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.prompt.prompt import Demonstration, Prompt, parse_prompt, substitute, unfilled

texts = st.text(max_size=30)
names = st.sampled_from(["input", "title", "body_2", "_x"])
pairs = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
prompts = st.builds(
    Prompt,
    instruction=texts,
    input_template=texts,
    cue=texts,
    system=st.none() | texts,
    label_words=pairs,
    demonstrations=st.lists(st.builds(Demonstration, pairs, texts), max_size=2).map(tuple),
    order=st.sampled_from(["instruction_first", "input_first"]),
    separator=texts,
).flatmap(lambda p: st.integers(0, len(p.demonstrations)).map(lambda nearest: p.edit(nearest=nearest)))


@given(prompts)
def test_json_round_trip_keeps_the_prompt_and_its_id(prompt: Prompt) -> None:
    again = Prompt.from_json(json.loads(json.dumps(prompt.to_json())))
    assert again == prompt and again.id == prompt.id and hash(again) == hash(prompt)


@given(prompts, prompts)
def test_ids_differ_exactly_where_prompts_do(left: Prompt, right: Prompt) -> None:
    assert (left.id == right.id) == (left == right)


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "b"},
        {"cue": "b"},
        {"system": ""},
        {"order": "input_first"},
        {"separator": " "},
        {"label_words": (("x", "y"),)},
        {"demonstrations": (Demonstration((("input", "t"),), "x"),)},
        {"nearest": 1},
    ],
)
def test_every_part_counts_in_the_id(change: dict[str, object]) -> None:
    assert Prompt().edit(**change).id != Prompt().id


@given(
    st.lists(st.tuples(names, texts), min_size=1, max_size=5),
    st.dictionaries(
        names,
        st.sampled_from(
            ["{input}", "{title}", "{{input}}", "{", "}", "\\1", "\\g<0>", "{input", "plain", "{labels}", "%s", "$x"]
        ),
    ),
)
def test_substitution_is_one_pass_and_literal(pieces: list[tuple[str, str]], values: dict[str, str]) -> None:
    # Literal text without braces around placeholders: the result must be the concatenation, whatever the values hold.
    literal = [(name, re.sub(r"[{}]", "", text)) for name, text in pieces]
    template = "".join(f"{{{name}}}{text}" for name, text in literal)
    expected = "".join(values.get(name, f"{{{name}}}") + text for name, text in literal)
    assert substitute(template, values) == expected


@pytest.mark.parametrize("text", ["{}", "{0}", "{a b}", "{a.b}", "{{", "{% if x %}", "{a!r}", "${b}c", '{"a": 1}'])
def test_other_braces_stay_as_they_are(text: str) -> None:
    assert substitute(text, {"a": "!", "0": "!"}) == text


def test_double_braces_are_no_escape() -> None:
    assert substitute("{{a}}", {"a": "{a}"}) == "{{a}}"
    assert substitute("{{a}}", {"a": "x"}) == "{x}"


def test_words_fall_back_to_the_label() -> None:
    prompt = Prompt(label_words=(("a", "Alpha"),))
    assert prompt.words(["b", "a"]) == ("b", "Alpha") and prompt.word("a") == "Alpha"


def test_placeholders_come_from_every_text_once() -> None:
    prompt = Prompt("do {labels}", "{b} {a} {b}", "{c}", system="{s}")
    assert prompt.placeholders == ("s", "labels", "b", "a", "c")


def test_text_shows_the_parts_in_their_order() -> None:
    prompt = Prompt("Do.", "{input}", "A:")
    assert prompt.text == "Do.\n{input}\nA:"
    assert prompt.edit(order="input_first", separator=" ").text == "{input} Do. A:"


def test_parse_cuts_instruction_input_and_cue() -> None:
    prompt = parse_prompt("Read.\nThen say.\nT: {title}\nand\nB: {body}\nAnswer:\n", ["title", "body"])
    assert prompt == Prompt("Read.\nThen say.", "T: {title}\nand\nB: {body}", "Answer:")


def test_parse_takes_columns_by_their_own_names() -> None:
    prompt = parse_prompt("Desk for {labels}?\nMessage: {Customer message} {2nd}\nDesk {x y}:", ["Customer_message", "_2nd"])
    assert prompt.text == "Desk for {labels}?\nMessage: {Customer_message} {_2nd}\nDesk {x y}:"


def test_words_in_braces_that_are_not_filled_in_are_named_once() -> None:
    plain = parse_prompt("Desk for {labels}?\n{title} of {day}", ["title"])
    assert unfilled([plain.edit(instruction="{labels}", input_template="{title}")], ["title"]) == ""
    assert unfilled([plain], ["title"]) == "{day} in your prompt is no input field, so the model reads it as written"
    assert unfilled([plain, plain.edit(cue="{x}", system="{day}")], ["title"]).startswith("{day}, {x} in your prompt are no")


@given(st.lists(st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=20), max_size=4))
def test_parse_reads_back_what_text_shows(lines: list[str]) -> None:
    kept = [line for line in (re.sub(r"\s+", " ", line).strip() for line in lines) if line]
    written = "\n".join([*kept, "Text: {input}", *kept])
    assert parse_prompt(written, ["input"]).text == written


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), (" \n", "empty"), ("Classify.", "{input}"), ("{Input} {inputs}", "{input}")]
)
def test_parse_refuses_a_prompt_without_its_field(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_prompt(text, ["input"], where="mine.txt")
    assert said in str(caught.value) and "mine.txt" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"instructions": "x"},
        {"instruction": 3},
        {"order": "sideways"},
        {"label_words": [["a"]]},
        {"label_words": 4},
        {"demonstrations": [{"fields": []}]},
        {"separator": None},
        {"system": 3},
    ],
)
def test_from_json_refuses_wrong_forms(data: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Prompt.from_json(data)
