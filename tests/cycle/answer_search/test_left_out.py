"""Prompts that the budget of a search without tuning leaves out, and cycles in which it leaves out all new ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cycle_runs import journal_of

from chat_server import chat_server
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.answer_search import loop
from cotune.cycle.answer_search.loop import AnswerPolicy
from cotune.cycle.answer_search.steps import NO_NEW_PROMPT, NONE_FOUND, StepPolicy
from cotune.cycle.backends.base import Opening
from cotune.cycle.backends.endpoint import EndpointBackend
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from labelling_server import WORDS, labelling

ROW = {"seed": 10.0, "short": 20.0, "middle": 30.0, "long": 90.0}


class Prices:
    """A test of ten rows of the longest prompt, a token for a token."""

    def untuned(self, seed: Prompt, finalists: Sequence[Prompt], known: Collection[str]) -> float:
        return 10 * max(ROW[prompt.text] for prompt in finalists)


def policy(left: float) -> tuple[StepPolicy, list[str]]:
    told: list[str] = []
    spending = SimpleNamespace(
        left=lambda: left,
        rows=SimpleNamespace(counted=lambda prompt: (ROW[prompt.text], 0)),
        costs=SimpleNamespace(scoring=lambda tokens: tokens),
    )
    journal = SimpleNamespace(replaying=False, tell=told.append)
    context = SimpleNamespace(spending=spending, journal=journal)
    unused = cast(Any, None)
    return StepPolicy(cast(Any, context), unused, unused, cast(Any, Prices()), unused), told


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (10_000, ["seed", "short", "middle", "long"]),
        (650, ["seed", "short", "middle"]),
        # The incumbent and the shortest new prompt cost 4 * 30 + 10 * 20, all three 4 * 60 + 10 * 30.
        (450, ["seed", "short"]),
        (330, ["seed", "short"]),
        (300, ["seed"]),
    ],
)
def test_the_longest_prompts_are_left_out_first(left: float, kept: list[str]) -> None:
    prompts: dict[str, Any] = {name: SimpleNamespace(id=name, text=name) for name in ROW}
    found, told = policy(left)
    new = ["short", "middle", "long"]
    chosen = found.affordable([*prompts.values()], 4, seed=prompts["seed"], sure=["seed"], new=new)
    assert [prompt.text for prompt in chosen] == kept
    assert len(told) == (len(kept) < 4) and all(f"{4 - len(kept)} long prompt" in text for text in told)


def test_parents_make_room_for_the_shortest_new_prompt() -> None:
    prompts: dict[str, Any] = {name: SimpleNamespace(id=name, text=name) for name in ROW}
    # The longest ones go first: "middle" alone is new, and goes before "short", which raced before.
    found, _ = policy(4 * (10 + 30) + 10 * 30)
    asked = [prompts[name] for name in ("seed", "short", "middle")]
    assert found.affordable(asked, 4, seed=prompts["seed"], sure=["seed"]) == asked[:2]
    assert found.affordable(asked, 4, seed=prompts["seed"], sure=["seed"], new=["middle"]) == [asked[0], asked[2]]
    # Without room for it, the others stay.
    found, _ = policy(4 * (10 + 30) + 10 * 30 - 1)
    assert found.affordable(asked, 4, seed=prompts["seed"], sure=["seed"], new=["middle"]) == asked[:2]


CONFIG = {"search": {"max_cycles": 4, "pool": 5}, "budget": "80ktok"}


@pytest.fixture
def url() -> Iterator[str]:
    with chat_server(labelling()) as server:
        yield server.url


@contextmanager
def search_in(folder: Path, url: str) -> Iterator[AnswerPolicy]:
    words = [word for group in zip(*WORDS.values(), strict=True) for word in group]
    kinds = {word: kind for kind, group in WORDS.items() for word in group}
    rows = [{"text": f"{words[i % 12]} {i}", "label": kinds[words[i % 12]]} for i in range(120)]
    task = Task.from_rows(rows, input="text", output="label", seed=0, limit={"test": 24, "dev": 20, "train": 40})
    config = config_in_memory(name="t", input=["text"], output="label", model="openai:m", endpoint={"base_url": url}, **CONFIG)
    with ExitStack() as stack:
        seed = seed_prompt(task)
        opening = Opening(config, task, seed, Journal(folder), folder, Quiet(), stack)
        context = EndpointBackend().open(opening)
        yield AnswerPolicy(context, config, (seed,), None)


def test_a_cycle_without_room_for_a_new_prompt_ends_the_search(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = StepPolicy.affordable

    def none_new(self: StepPolicy, prompts: Any, rows: int, *, new: Collection[str] = (), **more: Any) -> list[Prompt]:
        return [prompt for prompt in whole(self, prompts, rows, new=new, **more) if prompt.id not in new]

    monkeypatch.setattr(StepPolicy, "affordable", none_new)
    for _ in ("first", "resumed"):
        with search_in(tmp_path, url) as answers:
            search = answers.search()
        assert search.stopped == NO_NEW_PROMPT and len(search.cycles) == 1
        decided = [event["value"] for event in journal_of(tmp_path) if event["kind"] == "decide"]
        assert [value["next"] for value in decided] == ["prompts", "finish"] and decided[-1]["why"] == NO_NEW_PROMPT
        assert [event["value"]["cycle"] for event in journal_of(tmp_path) if event["kind"] == "race"] == [1]


def test_a_search_that_finds_no_new_prompt_ends(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "next_pool", lambda *asked, **more: [])
    with search_in(tmp_path, url) as answers:
        search = answers.search()
    assert search.stopped == NONE_FOUND and len(search.cycles) == 1


def test_prompts_that_were_left_out_are_not_proposed_again(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out: list[str] = []
    seen: list[set[str]] = []
    pool, whole = loop.next_pool, StepPolicy.affordable

    def watched(context: RunContext, cycle: int, parents: Any, count: int, known: set[str], **more: Any) -> list[Proposal]:
        seen.append(set(known))
        return pool(context, cycle, parents, count, known, **more)

    def without_one(self: StepPolicy, prompts: Any, rows: int, *, new: Collection[str] = (), **more: Any) -> list[Prompt]:
        kept = whole(self, prompts, rows, new=new, **more)
        gone = next((prompt for prompt in kept if prompt.id in new), None)
        left_out.extend([] if gone is None else [gone.id])
        return [prompt for prompt in kept if prompt is not gone]

    monkeypatch.setattr(loop, "next_pool", watched)
    monkeypatch.setattr(StepPolicy, "affordable", without_one)
    with search_in(tmp_path, url) as answers:
        search = answers.search()
    assert len(seen) >= 2 and len(left_out) >= 1
    assert all(set(left_out[:number]) <= known for number, known in enumerate(seen))
    assert not any(name in cycle["race"]["ranking"] for name in left_out for cycle in search.cycles)
