"""Prompts for written answers: seed, bank, edits, demonstrations and what a language model is told, for each type."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.prompt.bank import bare_prompt, seed_prompt, starting_bank
from cotune.prompt.prompt import substitute
from cotune.refine import first_pool, fixed, not_shown
from cotune.refine.demonstrations import with_demonstrations
from cotune.refine.edits import OPERATORS, format_variants, sound
from cotune.refine.mutate import mutate
from cotune.refine.rewriting import Question, messages_for
from cotune.task.values.kinds.json_kind import described_fields

TYPES = ("text", "number", "json")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"type": "string", "enum": ["play", "stop"]},
        "slots": {"type": "object", "properties": {"artist": {"type": "string"}, "loud": {"type": "boolean"}}},
        "tags": {"type": "array", "items": {"type": "string"}},
        "rooms": {"type": "array", "items": {"type": "object", "properties": {"beds": {"type": "integer"}}}},
        "{message}": {"type": "string"},
    },
}


def task_of(kind: str) -> Task:
    def answer(i: int) -> str:
        if kind == "json":
            return json.dumps({"intent": "play" if i % 2 else "stop", "slots": {"artist": f"singer {i}"}})
        return f"an answer of {i} words" if kind == "text" else str(i * 3 + 0.5)

    rows = [{"message": f"message number {i}", "reply": answer(i)} for i in range(60)]
    return Task.from_rows(rows, input="message", output="reply", type=kind)


def test_a_schema_is_described_without_braces() -> None:
    told = described_fields(SCHEMA)
    assert told == (
        'intent (one of "play", "stop"), slots.artist, slots.loud (true or false), tags (a list), rooms.beds (a number)'
    )
    assert described_fields({"type": "array", "items": {"type": "string"}}) == ""
    either = {"anyOf": [{"type": "string", "maxLength": 32}, {"type": "null"}]}
    assert described_fields({"type": "object", "properties": {"note": either}}) == "note"
    many = {"type": "object", "properties": {f"f{i}": {"type": "string"} for i in range(50)}}
    assert described_fields(many).endswith("f29 and others")


@pytest.mark.parametrize("kind", TYPES)
def test_seed_and_bank_ask_for_the_type(kind: str) -> None:
    task = task_of(kind)
    seed, bank = seed_prompt(task), starting_bank(task)
    assert "{message}" in seed.text and "label" not in seed.text.lower() and "categor" not in seed.text.lower()
    assert task.output.form in seed.instruction
    if kind == "json":
        assert "intent (one of" in seed.instruction and "slots.artist" in seed.instruction
    assert bank[:2] == [seed, bare_prompt(task)] and len(bank) >= 10
    assert len({prompt.id for prompt in bank}) == len(bank)
    for prompt in bank:
        assert sound(prompt, task, [prompt]) and "<" not in prompt.text and not prompt.label_words
        assert substitute(prompt.text, {"message": "x"}).count("x") >= 1


@pytest.mark.parametrize("kind", TYPES)
def test_edits_keep_prompts_sound_and_speak_of_no_labels(kind: str) -> None:
    task, rng = task_of(kind), np.random.default_rng(0)
    used = set()
    for prompt in starting_bank(task):
        for name, operator in OPERATORS.items():
            child = operator(prompt, task, rng)
            if child is not None:
                used.add(name)
                assert sound(child, task, [prompt]) and "{labels}" not in child.text
                assert "Label:" not in child.text and "classif" not in child.text.lower()
    assert {"reword", "order", "separator", "cue", "system", "field_style"} <= used and "label_words" not in used
    assert ("toggle_label_list" in used) == (kind != "text")
    assert len(format_variants(seed_prompt(task), 6, rng)) >= 4


@pytest.mark.parametrize("kind", TYPES)
def test_pools_are_bred_with_demonstrations(kind: str) -> None:
    task, rng = task_of(kind), np.random.default_rng(1)
    shown = fixed(task, rng)
    assert len(shown) == 4
    prompt = with_demonstrations(seed_prompt(task), shown)
    assert [demonstration.output for demonstration in prompt.demonstrations] == [row.output for row in shown]
    assert len(not_shown(prompt, task.train)) == len(task.train) - 4
    pool = first_pool(task, [], 12, rng, demonstration_pool=lambda rng: fixed(task, rng))
    children = mutate([p.prompt for p in pool[:3]], task, 6, rng, demonstration_pool=lambda rng: fixed(task, rng))
    assert len(pool) == 12 and len(children) == 6 and any(p.prompt.demonstrations for p in pool)


@pytest.mark.parametrize("kind", TYPES)
def test_a_language_model_is_told_what_is_asked_for(kind: str) -> None:
    task = task_of(kind)
    text = "\n".join(message["content"] for message in messages_for(task, Question(seed_prompt(task), (), ())))
    assert f"of the type {kind}" in text and task.metric in text and "label" not in text.lower()
    assert task.output.form in text
