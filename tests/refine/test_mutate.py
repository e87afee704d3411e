"""Pools: seeds and bare prompt first, children with their parents, nothing seen twice, the same under the same seed."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.errors import InputError
from cotune.prompt.bank import bare_prompt, seed_prompt, starting_bank
from cotune.prompt.prompt import Prompt, parse_prompt
from cotune.refine.demonstrations import fixed, with_demonstrations
from cotune.refine.edits import OPERATORS
from cotune.refine.mutate import first_pool, mutate
from cotune.refine.proposal import Proposal
from cotune.task.example import Example


@functools.cache
def make_task(count: int = 4, fields: tuple[str, ...] = ("input",)) -> Task:
    labels = [f"LabelNumber_{chr(97 + i % 26)}{i // 26}" for i in range(count)]
    rows = [{**{name: f"zebra {i} of {name}" for name in fields}, "output": labels[i % count]} for i in range(8 * count + 40)]
    return Task.from_rows(rows, input=list(fields))


TASKS = [make_task(), make_task(40), make_task(3, ("title", "body"))]


def pool_of(task: Task):  # type: ignore[no-untyped-def]
    return lambda rng: fixed(task, rng)


def check(proposals: Sequence[Proposal], task: Task, parents: set[str]) -> None:
    ids = [proposal.prompt.id for proposal in proposals]
    assert len(set(ids)) == len(ids)
    train = {tuple(row.fields.items()) for row in task.train}
    for proposal in proposals:
        prompt = proposal.prompt
        whole = "\n".join((prompt.system or "", *prompt.parts))
        assert all(whole.count(f"{{{field}}}") == 1 for field in task.input_fields)
        assert len(set(prompt.words(task.labels))) == len(task.labels)
        assert "zebra" not in whole
        assert all(shown.fields in train for shown in prompt.demonstrations)
        assert set(proposal.parents) <= parents and prompt.id not in proposal.parents
        assert Proposal.from_json(json.loads(json.dumps(proposal.to_json()))) == proposal
        if proposal.source == "edit":
            assert set(proposal.operator.split("+")) <= set(OPERATORS) and len(proposal.parents) == 1
        elif proposal.source == "crossover":
            assert proposal.operator.startswith("crossover_") and len(set(proposal.parents)) == 2
        elif proposal.source == "demonstrations":
            assert proposal.operator.startswith("demonstrations_") and len(proposal.parents) == 1
        else:
            assert proposal.operator == "" and proposal.parents == ()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TASKS), st.data(), st.integers(0, 12), st.integers(0, 2**32), st.booleans())
def test_children_have_parents_and_are_new(task: Task, data: st.DataObject, n: int, seed: int, shows: bool) -> None:
    bank = starting_bank(task)
    survivors = data.draw(st.lists(st.sampled_from(bank), min_size=1, max_size=5, unique_by=lambda prompt: prompt.id))
    if shows:
        survivors[0] = with_demonstrations(survivors[0], fixed(task, np.random.default_rng(seed)))
    seen = {prompt.id for prompt in bank}
    pool = pool_of(task) if shows else None
    children = mutate(survivors, task, n, np.random.default_rng(seed), demonstration_pool=pool, seen=seen)
    assert children == mutate(survivors, task, n, np.random.default_rng(seed), demonstration_pool=pool, seen=seen)
    assert len(children) == (max(n, len(survivors)) if n else 0)
    assert not {child.prompt.id for child in children} & seen
    check(children, task, {prompt.id for prompt in survivors})
    if n:
        assert {child.parents[0] for child in children} == {prompt.id for prompt in survivors}


def test_breeding_uses_every_source_and_most_operators() -> None:
    task = make_task()
    survivors = starting_bank(task)[:6]
    children = mutate(survivors, task, 150, np.random.default_rng(0), demonstration_pool=pool_of(task))
    assert {child.source for child in children} == {"edit", "demonstrations", "crossover"}
    used = {name for child in children for name in child.operator.split("+")}
    assert len(used & set(OPERATORS)) >= len(OPERATORS) - 2
    assert {name for name in used if name.startswith("crossover")} >= {
        "crossover_instruction",
        "crossover_cue",
        "crossover_system",
    }


def test_demonstrations_are_added_removed_and_exchanged() -> None:
    task = make_task()
    shown = with_demonstrations(seed_prompt(task), fixed(task, np.random.default_rng(0)))
    children = mutate([seed_prompt(task), shown], task, 80, np.random.default_rng(0), demonstration_pool=pool_of(task))
    operators = {child.operator: child for child in children if child.source == "demonstrations"}
    assert set(operators) == {"demonstrations_added", "demonstrations_removed", "demonstrations_exchanged"}
    assert len(operators["demonstrations_removed"].prompt.demonstrations) < 4
    without_pool = mutate([shown], task, 40, np.random.default_rng(0))
    assert {child.operator for child in without_pool if child.source == "demonstrations"} == {"demonstrations_removed"}


def test_a_crossover_takes_each_part_from_a_parent() -> None:
    task = make_task()
    left = seed_prompt(task)
    right = Prompt("Say what it is.", "<{input}>", "=>", system="S", label_words=(), order="input_first", separator=" ")
    crossed = [c for c in mutate([left, right], task, 80, np.random.default_rng(1)) if c.source == "crossover"]
    assert len(crossed) > 10
    for child in crossed:
        for part, value in child.prompt.to_json().items():
            assert value in (left.to_json()[part], right.to_json()[part])


def test_an_instruction_that_names_words_follows_the_prompt_it_joins() -> None:
    task = make_task()
    raw = Prompt("Say LabelNumber_a0, LabelNumber_b0, LabelNumber_c0 or LabelNumber_d0.", "{input}", "A:")
    human = Prompt("", "{input}", "B:", label_words=seed_prompt(task).label_words, system="S")
    children = mutate([raw, human], task, 150, np.random.default_rng(0))
    named = [c.prompt for c in children if c.source == "crossover" and c.prompt.instruction]
    assert {bool(prompt.label_words) for prompt in named} == {True, False}
    for prompt in named:
        assert all(word in prompt.instruction for word in prompt.words(task.labels))


def test_rows_that_are_not_from_train_are_refused() -> None:
    task = make_task()
    for row in (task.dev[0], Example("x", {"input": "t"}, task.labels[0])):
        with pytest.raises(ValueError, match="train rows"):
            mutate([seed_prompt(task)], task, 40, np.random.default_rng(0), demonstration_pool=lambda _, row=row: [row])


def test_no_survivors_no_children() -> None:
    assert mutate([], make_task(), 5, np.random.default_rng(0)) == []


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TASKS), st.integers(0, 60), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_the_first_pool_holds_seed_and_bare_prompt_whatever_its_size(
    task: Task, n: int, seed: int, mine: bool, shows: bool
) -> None:
    fields = "\n".join(f"{name}>> {{{name}}}" for name in task.input_fields)
    users = [parse_prompt(f"Sort this.\n{fields}", task.input_fields)] if mine else []
    pool = pool_of(task) if shows else None
    made = first_pool(task, users, n, np.random.default_rng(seed), demonstration_pool=pool)
    assert made == first_pool(task, users, n, np.random.default_rng(seed), demonstration_pool=pool)
    assert len(made) == max(n, 2)
    assert made[0] == (Proposal(users[0], "user") if mine else Proposal(seed_prompt(task), "seed"))
    assert made[1] == Proposal(bare_prompt(task), "bare")
    check(made, task, {proposal.prompt.id for proposal in made})
    sources = {proposal.source for proposal in made}
    assert ("demonstrations" in sources) == (shows and n > 3) or n <= 3
    if mine and n >= 8:
        assert any(proposal.source == "edit" and proposal.parents == (users[0].id,) for proposal in made)
    if n >= 8:
        assert "bank" in sources


def test_a_user_prompt_that_is_the_bare_one_is_not_doubled() -> None:
    task = make_task()
    made = first_pool(task, [bare_prompt(task)], 1, np.random.default_rng(0))
    assert made == [Proposal(bare_prompt(task), "user")]


@pytest.mark.parametrize(
    "change", [{"source": "luck"}, {"parents": "abc"}, {"prompt": "text"}, {"extra": 1}, {"prompt": {"instructions": ""}}]
)
def test_a_proposal_refuses_wrong_json(change: dict[str, object]) -> None:
    data = {**Proposal(Prompt(), "seed").to_json(), **change}
    with pytest.raises(InputError):
        Proposal.from_json(data)
    with pytest.raises(InputError):
        Proposal.from_json({"prompt": {}})
