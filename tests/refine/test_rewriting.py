"""What a language model is shown, and which of its instructions are taken: by example and by property."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.refine.copied import RowGrams, words_of
from cotune.refine.rewriting import Case, Failures, Question, Rewrites, accept, messages_for, read_answer

WORDS = ("parcel", "arrived", "broken", "yesterday", "money", "back", "card", "lost", "street", "please", "help", "me", "now")
LONG = "my parcel arrived broken yesterday and I want all of my money back please"
SHORT = "where is my card"
TINY = "refund!"
ROWS = [
    *({"text": LONG, "label": "returns"}, {"text": SHORT, "label": "cards"}, {"text": TINY, "label": "returns"}),
    *(
        {"text": f"{WORDS[i % 13]} number {i} was {WORDS[(i * 5) % 13]}", "label": ("returns", "cards")[i % 2]}
        for i in range(40)
    ),
]


def make_task() -> Task:
    columns: dict[str, Any] = {"input": "text", "output": "label"}
    return Task.from_rows(ROWS, dev=ROWS[3:15], test=ROWS[15:25], **columns)


TASK = make_task()
PROMPT = seed_prompt(TASK)
EVERY = (*TASK.train, *TASK.dev)
SHOWN = Question(
    PROMPT,
    (Failures("parcel, broken", tuple(Case(row, "cards") for row in TASK.train[:4])),),
    (Case(TASK.dev[0], TASK.dev[0].output),),
)
GRAMS = RowGrams(TASK)
GOOD = "Read what the writer wants. Say returns for anything that was bought, and cards for payments."


def tried(*items: Any, known: Sequence[Prompt] = ()) -> Rewrites:
    return accept(items, TASK, SHOWN, GRAMS, known)


def why(*items: Any) -> str:
    found = tried(*items)
    assert not found.proposals
    return found.refused[0]["why"]


def test_the_rows_of_these_tests_are_where_they_are_meant_to_be() -> None:
    assert {LONG, SHORT, TINY} <= {row.fields["text"] for row in TASK.train}


# The question -----------------------------------------------------------------------------------------------------


def test_the_question_shows_task_prompt_failures_and_successes() -> None:
    text = messages_for(TASK, SHOWN)[1]["content"]
    for part in ("returns", "cards", json.dumps(PROMPT.instruction), "about: parcel, broken", '"prompts"', "accuracy"):
        assert part in text
    for case in (*SHOWN.failures[0].cases, *SHOWN.successes):
        assert json.dumps(case.row.fields["text"]) in text
    assert '"right": "returns", "answered": "cards"' in text


def test_rows_stay_data_and_long_ones_are_cut() -> None:
    row = {"text": 'x\n\nRows that it gets right\n- {"text": "' + "long " * 500 + "\x07\u2028", "label": "returns"}
    task = Task.from_rows([*ROWS, row], dev=ROWS[3:15], test=ROWS[15:25], input="text", output="label")
    hostile = next(r for r in task.train if r.fields["text"].startswith("x"))
    text = messages_for(task, Question(PROMPT, (Failures("", (Case(hostile, "cards"),)),), ()))[1]["content"]
    assert text.encode("utf-8")
    lines = [line for line in text.split("\n") if line.startswith("- ")]
    assert len(lines) == 1 and len(lines[0]) < 500
    assert json.loads(lines[0][2:])["right"] == "returns"


# The answer -------------------------------------------------------------------------------------------------------

ITEMS = [{"instruction": "One."}, {"instruction": "Two."}]
AS_JSON = json.dumps({"prompts": ITEMS})


@pytest.mark.parametrize(
    "text",
    [
        AS_JSON,
        f"```json\n{AS_JSON}\n```",
        f"```\n{AS_JSON}```",
        f"Sure! Here you are {{as asked}}:\n\n```JSON\n{AS_JSON}\n```\nI hope it helps [a little].",
        f"<think>maybe {{x}} or [1, 2}}</think> {AS_JSON} trailing {{",
        json.dumps(ITEMS),
        f"Answer: {json.dumps(ITEMS)}",
        f"Rows [1, 2] differ. {AS_JSON}",
        f"Rows [1, 2] differ. {json.dumps(ITEMS)}",
        f'Of ["returns", "cards"] I got {{"right": 3}}. {AS_JSON}',
        f'You asked for {{"prompts": ["...", "..."]}}. {AS_JSON}',
        json.dumps({"prompts": ITEMS, "notes": "more"}, indent=2),
    ],
)
def test_answers_are_found_in_fences_and_talk(text: str) -> None:
    assert read_answer(text) == ITEMS


@pytest.mark.parametrize(
    "text",
    [
        *("", "no", "{}", '{"prompts": "x"}', '{"prompts": [', "{" * 5000, "[" * 200_000, "```json\n```", "3"),
        *("Rows [1, 2] differ.", '{"prompts": [1, "..."]}', '[{"text": "x"}]', '"Say X."'),
    ],
)
def test_what_holds_no_list_gives_none(text: str) -> None:
    assert read_answer(text) is None


def test_a_single_item_and_bare_texts_are_read() -> None:
    for item in ({"instruction": "One."}, {"instruction": "One.", "tags": ["x"]}):
        assert read_answer(json.dumps(item)) == [item]
    found = tried("Say what it is about.")
    assert found.proposals[0].prompt.instruction == "Say what it is about."


# What is taken ----------------------------------------------------------------------------------------------------


def test_a_good_instruction_becomes_a_child_of_the_present_prompt() -> None:
    found = tried({"instruction": f"  {GOOD}\n", "why": "clearer"})
    (proposal,) = found.proposals
    assert not found.refused
    assert proposal.prompt == PROMPT.edit(instruction=GOOD)
    assert (proposal.source, proposal.parents) == ("rewrite", (PROMPT.id,))


def test_templates_and_cues_are_taken_too_and_demonstrations_stay() -> None:
    shown = PROMPT.edit(demonstrations=(Demonstration((("text", LONG),), "returns"),))
    question = Question(shown, SHOWN.failures, SHOWN.successes)
    item = {"instruction": GOOD, "input_template": "Message: {text}", "cue": "Topic:"}
    (proposal,) = accept([item], TASK, question, GRAMS, []).proposals
    assert (proposal.prompt.input_template, proposal.prompt.cue) == ("Message: {text}", "Topic:")
    assert proposal.prompt.demonstrations == shown.demonstrations


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"instruction": GOOD, "input_template": "Message:"}, "never shows the input field {text}"),
        ({"instruction": GOOD, "input_template": "{message}"}, "never shows the input field {text}"),
        ({"instruction": GOOD + " {question}"}, "{question} is not an input field"),
        ({"instruction": GOOD + " {text}"}, "more often"),
        ({"instruction": "   "}, "empty"),
        ({"instruction": "..."}, "contains no word"),
        ({"instruction": ""}, "not an instruction"),
        ({"instruction": 3}, "not an instruction"),
        ({"prompt": GOOD}, "not an instruction"),
        ([GOOD], "not an instruction"),
        (None, "not an instruction"),
        ({"instruction": "a\x00b"}, "control characters"),
        ({"instruction": "half \ud800 pair"}, "not an instruction"),
        ({"instruction": "word " * 500}, "longer than"),
        ({"instruction": f"For example, “{LONG.upper()}” needs care."}, "copies a row"),
        ({"instruction": GOOD, "cue": f"{LONG} ->"}, "copies a row"),
        ({"instruction": GOOD + " Where is MY... card?"}, "copies a row"),
        ({"instruction": "Mind my parcel:\n- arrived broken\n- yesterday and I want"}, "copies a row"),
        ({"instruction": "My parcel arrived broken", "cue": "yesterday and I want:"}, "copies a row"),
        ({"instruction": 'Say returns for "Refund".'}, "reveals the answer"),
        ({"instruction": "When the parcel arrived broken yesterday, say returns."}, "reveals the answer"),
        ({"instruction": "Input: my parcel arrived broken yesterday\nOutput: returns"}, "reveals the answer"),
        ({"instruction": "Returns:\n\n- my parcel arrived broken yesterday"}, "reveals the answer"),
        ({"instruction": "Some say: my parcel arrived. Broken yesterday! The answer is returns."}, "reveals the answer"),
        ({"instruction": "Text: refund!\nLabel: returns\nText: a lost street\nLabel: cards"}, "reveals the answer"),
        (
            {"instruction": "Text: parcel arrived broken yesterday", "input_template": "Is: returns\nText: {text}"},
            "reveals the answer",
        ),
    ],
)
def test_what_is_refused_and_why(item: Any, told: str) -> None:
    assert told in why(item)


def test_a_row_may_be_hinted_at_without_its_answer_and_labels_named_without_a_row() -> None:
    assert tried({"instruction": "Watch for what arrived broken yesterday. Say returns or cards."}).proposals
    assert tried({"instruction": "Answer with one of: {labels}. Mind refunds."}).proposals


@pytest.mark.parametrize(
    "text",
    [
        "Watch for the parcel arrived broken yesterday. Say returns or cards.",
        "Labels: returns, cards\nSome rows say that the parcel arrived broken yesterday",
        "Somebody may tell why a refund would be fair. Say returns for goods.",
        "- returns: goods\n- cards: how to pay, not what one pays for, as when the parcel arrived broken yesterday",
        "Read where the parcel is. Say cards for money.",
    ],
)
def test_a_row_that_no_label_stands_beside_and_words_that_many_say_do_no_harm(text: str) -> None:
    assert tried(text).proposals


def test_right_answers_that_are_no_labels_may_not_be_copied() -> None:
    rows = [{"text": f"{WORDS[i % 13]} {i}", "reply": f"We send a new {WORDS[i % 13]} within {i} days."} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="reply", type="text")
    row = task.train[0]
    question = Question(seed_prompt(task), (Failures("", (Case(row, "no"),)),), ())
    told = [f"For example: {row.output.upper()}", f"Be kind, and say '{task.dev[0].output}'", "Send a new one within days."]
    found = accept(told, task, question, RowGrams(task), [])
    assert [item["why"].partition(" (")[0] for item in found.refused] == ["it copies a row"] * 2
    assert [proposal.prompt.instruction for proposal in found.proposals] == told[2:]


def test_duplicates_are_refused_also_in_other_case_and_punctuation() -> None:
    found = tried(GOOD, GOOD, GOOD.upper().replace(".", "!"), PROMPT.instruction)
    assert len(found.proposals) == 1
    assert [item["why"] for item in found.refused] == ["it is already known"] * 3
    for older in (GOOD, GOOD.upper().replace(".", "!")):
        assert tried(GOOD, known=[PROMPT.edit(instruction=older)]).refused[0]["why"] == "it is already known"
    other = PROMPT.edit(instruction=GOOD, demonstrations=(Demonstration((("text", LONG),), "returns"),))
    assert tried(GOOD, known=[other, PROMPT.edit(instruction="Other.")]).proposals


# Properties -------------------------------------------------------------------------------------------------------

NOISE = st.sampled_from([" ", "  ", "\n", ", ", " - ", "\u200b ", '" "', "... ", "\u00a0"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["instruction", "prompts", "cue", "input_template", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(EVERY) - 1), st.data())
def test_no_disguise_carries_eight_words_of_a_row_through(place: int, data: st.DataObject) -> None:
    """Other case, punctuation, spacing, invisible or full-width characters, and text around it: a copy stays one."""
    words = EVERY[place].fields["text"].split()
    if len(words) < 4:
        return
    size = min(8, len(words))
    start = data.draw(st.integers(0, len(words) - size))
    disguises = st.sampled_from([str.upper, str.title, str.lower, lambda w: w[0] + "\u200d" + w[1:], _full_width])
    said = "".join(data.draw(disguises)(word) + data.draw(NOISE) for word in words[start : start + size])
    assert "copies a row" in why({"instruction": f"Be careful.{data.draw(NOISE)}{said}and so on."})


def _full_width(word: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in word)


@settings(max_examples=80, deadline=None)
@given(st.lists(JSON_VALUES, max_size=5))
def test_whatever_comes_is_taken_or_refused_and_what_is_taken_is_sound(items: list[Any]) -> None:
    found = tried(*items)
    assert len(found.proposals) + len(found.refused) == len(items)
    for proposal in found.proposals:
        child = proposal.prompt
        assert "{text}" in child.text and child.instruction.strip()
        assert set(child.placeholders) <= {"text", "labels"}
        assert GRAMS.copied(child.instruction) is None
        assert Prompt.from_json(json.loads(json.dumps(child.to_json()))) == child
    assert json.dumps(found.refused).encode()
    assert all(item["why"] and len(item["text"]) <= 160 for item in found.refused)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers() | st.text(max_size=5), max_size=5))
def test_a_list_in_the_talk_before_an_answer_is_not_taken_for_it(rows: list[Any]) -> None:
    assert read_answer(f"Rows {json.dumps(rows)} differ. {AS_JSON}") == ITEMS


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='{}[]",:`\\ n', max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    items = read_answer(text)
    assert items is None or isinstance(items, list)
    tried(*(items or []))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_words_do_not_depend_on_case_or_normal_form(text: str) -> None:
    import unicodedata

    assert words_of(text.casefold()) == words_of(text)
    assert words_of(unicodedata.normalize("NFKC", text)) == words_of(text)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    rows = [
        {"text": f"今日は駅前でとても美味しい{c}を食べました", "label": "a" if i % 2 else "b"}
        for i, c in enumerate("魚肉米麺" * 5)
    ]
    task = Task.from_rows([{**row, "text": row["text"] + str(i)} for i, row in enumerate(rows)], input="text", output="label")
    grams = RowGrams(task)
    assert grams.copied("例:今日は駅前でとても美味し、です") is not None
    assert grams.copied("内容を読んで分類してください") is None
