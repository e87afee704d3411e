"""Operators: they keep fields and words, change something, say so, and are the same under the same seed."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.prompt.bank import explanation, seed_prompt, starting_bank
from cotune.prompt.prompt import Prompt, parse_prompt, substitute
from cotune.refine.edits import FORMATS, OPERATORS, SEPARATORS, format_variants, sound, with_words
from cotune.refine.template import STYLES, read_template, write_template
from cotune.refine.wording import paraphrases, sentences, task_kind

FEW = ("card_arrival", "AddToPlaylist", "human", "NUM")
WIDE = tuple(f"topic_{a}{b}" for a in "abcdef" for b in "uvwxyz")
HOSTILE = ("{input}", "a_b", "aB", "labels", "x y")


@functools.cache
def make_task(labels: Sequence[str] = FEW, fields: Sequence[str] = ("input",), output: str = "output") -> Task:
    rows = [
        {**{name: f"zebra row {i} of {name}." for name in fields}, output: labels[i % len(labels)]}
        for i in range(8 * len(labels) + 40)
    ]
    return Task.from_rows(rows, input=list(fields), output=output)


TASKS = [
    make_task(),
    make_task(WIDE),
    make_task(FEW, ("title", "body_text"), "queue_name"),
    make_task(HOSTILE),
    make_task(("positive", "negative"), ("review",), "sentiment"),
]
MINE = "You sort mail. Be kind (e.g. to {me}).\nSay card_arrival, AddToPlaylist, human or NUM.\nMail >>{input}<<\nNow:"


def prompts_of(task: Task) -> list[Prompt]:
    mine = [parse_prompt(MINE, ["input"]).edit(system="Keep {labels} in mind.")] if task.input_fields == ("input",) else []
    return [*starting_bank(task), *mine]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(TASKS), st.data(), st.sampled_from(sorted(OPERATORS)), st.integers(0, 2**32))
def test_every_operator_keeps_what_must_be_kept(task: Task, data: st.DataObject, name: str, seed: int) -> None:
    prompt = data.draw(st.sampled_from(prompts_of(task)))
    first = data.draw(st.sampled_from([None, *sorted(OPERATORS)]))
    if first is not None:
        prompt = OPERATORS[first](prompt, task, np.random.default_rng(seed + 1)) or prompt
    before = prompt.to_json()
    child = OPERATORS[name](prompt, task, np.random.default_rng(seed))
    assert prompt.to_json() == before
    assert child == OPERATORS[name](prompt, task, np.random.default_rng(seed))
    if child is None:
        return
    assert child != prompt and child.id != prompt.id
    whole, was = ("\n".join((p.system or "", *p.parts)) for p in (child, prompt))
    assert all(whole.count(f"{{{field}}}") == was.count(f"{{{field}}}") for field in task.input_fields)
    assert set(child.placeholders) <= {*prompt.placeholders, "labels"}
    words = child.words(task.labels)
    assert len(set(words)) == len(task.labels) and all(words)
    values = {**dict.fromkeys(task.input_fields, "\u2603"), "labels": "\u2604"}
    shown = substitute(whole, values)
    assert not any(f"{{{field}}}" in shown for field in (*task.input_fields, "labels"))
    assert Prompt.from_json(json.loads(json.dumps(child.to_json()))) == child
    assert "zebra" not in whole
    assert "{labels}" not in whole or len(task.labels) <= 20 or "{labels}" in was


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_applies_to_something_in_the_bank(name: str) -> None:
    task = make_task()
    made = {
        child.id
        for prompt in starting_bank(task)
        for seed in range(5)
        if (child := OPERATORS[name](prompt, task, np.random.default_rng(seed))) is not None
    }
    assert len(made) >= 8


def test_operators_change_the_part_they_are_named_after() -> None:
    task, prompt = make_task(), seed_prompt(make_task())
    parts = {
        "reword": {"instruction"},
        "paraphrase": {"instruction"},
        "drop_sentence": {"instruction"},
        "clear_instruction": {"instruction"},
        "lengthen": {"instruction"},
        "explain_labels": {"instruction"},
        "toggle_label_list": {"instruction"},
        "casing": {"instruction"},
        "move_instruction": {"instruction", "system"},
        "label_words": {"label_words"},
        "system": {"system"},
        "cue": {"cue"},
        "cue_style": {"cue"},
        "field_names": {"input_template"},
        "field_style": {"input_template"},
        "order": {"order"},
        "separator": {"separator"},
    }
    assert set(parts) == set(OPERATORS)
    for name, allowed in parts.items():
        child = OPERATORS[name](prompt, task, np.random.default_rng(0))
        assert child is not None, name
        assert {key for key, value in child.to_json().items() if value != prompt.to_json()[key]} == allowed, name


def test_the_label_list_goes_and_comes() -> None:
    task, rng = make_task(), np.random.default_rng(0)
    toggle = OPERATORS["toggle_label_list"]
    without = toggle(seed_prompt(task), task, rng)
    assert without is not None and without.instruction == "Classify the text."
    again = toggle(without, task, rng)
    assert again is not None and again.instruction.startswith("Classify the text. ") and "{labels}" in again.instruction
    assert toggle(seed_prompt(make_task(WIDE)), make_task(WIDE), rng) is None


def test_a_text_that_names_the_words_follows_them_in_one_pass() -> None:
    task = make_task()
    mine = parse_prompt("Say card_arrival, AddToPlaylist, human or NUM.\n{input}", ["input"])
    child = with_words(mine, (("AddToPlaylist", "human"), ("human", "person"), ("card_arrival", "card")), task)
    assert child is not None and child.instruction == "Say card, human, person or NUM."
    explained = seed_prompt(task).edit(instruction=explanation(seed_prompt(task).words(task.labels), "text"))
    raw = with_words(explained, (), task)
    assert raw is not None and raw.instruction == explanation(raw.words(task.labels), "text")
    braces = with_words(mine, (("human", "{input}"), ("AddToPlaylist", "b"), ("card_arrival", "c")), task)
    assert braces is None


def test_a_text_that_names_only_some_words_stays() -> None:
    mine = parse_prompt("A human thing.\n{input}", ["input"])
    child = with_words(mine, (("human", "Human"), ("NUM", "number")), make_task())
    assert child is not None and child.instruction == "A human thing."


def test_a_long_text_of_the_user_is_never_replaced_by_a_wording() -> None:
    task = make_task()
    mine = Prompt(instruction="Mind what follows. " * 20, label_words=seed_prompt(task).label_words)
    assert all(OPERATORS["reword"](mine, task, np.random.default_rng(seed)) is None for seed in range(20))
    own = parse_prompt("Mail >>{input}<<", ["input"])
    for name in ("field_names", "field_style"):
        assert OPERATORS[name](own, task, np.random.default_rng(0)) is None


def test_sound_refuses_lost_doubled_and_unknown_fields_and_equal_words() -> None:
    task, prompt = make_task(), seed_prompt(make_task())
    assert sound(prompt, task, [prompt])
    for broken in (
        {"input_template": "Text"},
        {"cue": "{input}"},
        {"instruction": "{other}"},
        {"label_words": (("human", "NUM"),)},
        {"label_words": (("human", ""),)},
    ):
        assert not sound(prompt.edit(**broken), task, [prompt]), broken


def test_an_operator_that_would_lose_or_double_a_field_does_not_apply() -> None:
    task, rng = make_task(), np.random.default_rng(0)
    inside = Prompt("Classify {input}.", "", "What is it?")
    assert OPERATORS["clear_instruction"](inside, task, rng) is None
    assert OPERATORS["reword"](inside, task, rng) is None
    assert OPERATORS["cue"](Prompt("", "", "Of {input} the kind is"), task, rng) is None
    doubled = Prompt("", "{input}", label_words=(("human", "NUM"),))
    assert OPERATORS["separator"](doubled.edit(cue="A:"), task, rng) is None


def test_format_variants_say_the_same_words() -> None:
    def letters(prompt: Prompt) -> list[str]:
        return sorted("".join(c if c.isalnum() else " " for c in " ".join(prompt.parts).lower()).split())

    prompt = seed_prompt(make_task())
    variants = format_variants(prompt, 30, np.random.default_rng(3))
    assert len(variants) == 30 == len({v.id for v in variants}) and prompt not in variants
    assert variants == format_variants(prompt, 30, np.random.default_rng(3))
    assert variants != format_variants(prompt, 30, np.random.default_rng(4))
    assert all(letters(v) == letters(prompt) for v in variants)
    assert all((v.label_words, v.system) == (prompt.label_words, prompt.system) for v in variants)
    assert {v.separator for v in variants} <= set(SEPARATORS)
    assert {name for name, op in OPERATORS.items() if op.preserves_meaning} == set(FORMATS)


@pytest.mark.parametrize(("n", "most"), [(3, 1), (8, 1), (30, 6)])
def test_few_formats_have_their_parts_in_another_order(n: int, most: int) -> None:
    """Where the row stands first the rest of the prompt is no shared prefix: such formats cost several times as much."""
    prompt = seed_prompt(make_task())
    for draw in range(8):
        orders = [variant.order for variant in format_variants(prompt, n, np.random.default_rng(draw))]
        assert len(orders) == n and sum(order != prompt.order for order in orders) <= most


def test_a_prompt_without_variants_gives_fewer() -> None:
    assert format_variants(Prompt(), 5, np.random.default_rng(0)) == []
    assert format_variants(seed_prompt(make_task()), 0, np.random.default_rng(0)) == []


@pytest.mark.parametrize("style", sorted(STYLES))
def test_templates_are_read_as_they_were_written(style: str) -> None:
    shown = [("Title", "title"), ("Body text", "body_text")]
    read = read_template(write_template(shown, style))
    assert read is not None
    assert [(name.lower(), field) for name, field in read if name] == [("title", "title"), ("body text", "body_text")]


@pytest.mark.parametrize(
    "template", ["", "Text {x} end", "{x}{y}", "{x} {x}", "{x}\n{x}", "A: {labels}", "a {b} c: {x}", "{x}\n", "A: {x}\nEnd"]
)
def test_a_template_that_says_something_of_its_own_is_left_alone(template: str) -> None:
    assert read_template(template) is None


@given(st.text(st.sampled_from("ab. !?\n{}e.g"), max_size=40))
def test_sentences_join_to_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_paraphrases_leave_quotes_and_braces_alone() -> None:
    text = 'Classify it. Say "choose" and {choose}, do not choose more.'
    made = paraphrases(text)
    assert made and all('"choose"' in other and "{choose}" in other and other != text for other in made)
    assert any("do not pick more" in other for other in made)
    assert any(other.startswith("Please classify") for other in made)


def test_the_kind_of_task_is_read_from_names_and_labels() -> None:
    assert task_kind(make_task(("positive", "negative"), ("review",), "sentiment")) == "sentiment"
    assert task_kind(make_task(("Yes", "no"))) == "yes_no"
    assert task_kind(make_task(("entailment", "contradiction", "neutral"), ("a", "b"))) == "entailment"
    assert task_kind(make_task(FEW, ("q",), "intent_name")) == "intent"
    assert task_kind(make_task(FEW, ("question",))) == "question"
    assert task_kind(make_task()) == "general"
