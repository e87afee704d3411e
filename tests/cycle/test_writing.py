"""How written answers are asked for: room among the model's positions, costs, losses a token, answers of the type."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.answering.written import WrittenAnswering
from cotune.errors import InputError
from cotune.evaluate.decision import RAW
from cotune.evaluate.responses import AnswerOutputs
from cotune.model.structured.limits import most_tokens
from cotune.prompt.bank import seed_prompt
from cotune.task.metrics.metric import METRICS
from tiny import tiny_local


def task_of(kind: str, length: int = 1) -> Task:
    outputs = {"text": "a b " * length, "number": "", "json": ""}
    rows = [{"q": f"row {i}", "a": {"n": i + 100} if kind == "json" else f"{outputs[kind]}{i * 3}"} for i in range(40)]
    return Task.from_rows(rows, input="q", output="a", type=kind, limit={"test": 10})


@pytest.mark.parametrize("kind", ["text", "number", "json"])
def test_scores_are_losses_a_token_and_answers_are_of_the_type(kind: str) -> None:
    task, model = task_of(kind), tiny_local()
    answering = answering_for(task, model)
    rows, prompt = task.dev[:5], seed_prompt(task)
    reply = answering.score(prompt, "base", rows, lambda tokens: None)
    found = model.answer_losses(prompt, [row.fields for row in rows], [row.output for row in rows])
    assert isinstance(reply.given, AnswerOutputs) and reply.given.texts is None
    np.testing.assert_allclose(reply.given.losses, found.losses / found.lengths)
    assert np.isnan(reply.given.judge(rows, RAW, task).score)
    written = answering.write(prompt, "base", rows, reply.given, lambda tokens: None)
    assert written is not None and isinstance(written.given, AnswerOutputs) and written.given.texts is not None
    judged = written.given.judge(rows, RAW, task)
    assert judged.n == 5 and len(judged.answers) == 5 and 0 <= judged.score <= 1
    if kind == "json":
        assert all(isinstance(json.loads(text)["n"], int) for text in written.given.texts)
    if kind == "number":
        assert all(text.lstrip("-").isdigit() for text in written.given.texts)
    both = written.given[:2].plus(written.given[2:])
    assert isinstance(both, AnswerOutputs) and both.texts == written.given.texts and len(both) == 5


def test_costs_are_about_what_is_run() -> None:
    task, model = task_of("text"), tiny_local()
    answering = WrittenAnswering(task, model)
    rows, prompt = task.train[:16], seed_prompt(task)
    own, prefix = answering.tokens_a_row(prompt, rows)
    reply = answering.score(prompt, "base", rows, lambda tokens: None)
    assert reply.tokens == pytest.approx(16 * own + prefix)
    written = answering.write(prompt, "base", rows, reply.given, lambda tokens: None)
    assert written is not None
    read = answering.tokens_read_again(prompt, rows, apart=True)
    assert written.tokens - written.written == pytest.approx(16 * read + prefix)
    assert answering.tokens_read_again(prompt, rows, apart=False) == 0.0, "a prompt is read once for both"
    assert 0.5 < answering.answer_tokens(tuned=False) / (written.written / 16) < 2
    assert answering.answer_tokens(tuned=True) < answering.answer_tokens(tuned=False) < answering.limit


@pytest.mark.parametrize("kind", ["text", "number", "json"])
def test_a_prompt_is_read_once_for_both(kind: str) -> None:
    task, model = task_of(kind), tiny_local()
    answering = answering_for(task, model)
    rows, prompt = task.train[:16], seed_prompt(task)
    scored = answering.score(prompt, "base", rows, lambda tokens: None)
    apart = answering.write(prompt, "base", rows, scored.given, lambda tokens: None)
    told: list[int] = []
    found = answering.both(prompt, "base", rows, told.append)
    assert found is not None and apart is not None
    first, second, seconds = found
    assert isinstance(first.given, AnswerOutputs) and isinstance(scored.given, AnswerOutputs)
    assert isinstance(second.given, AnswerOutputs) and isinstance(apart.given, AnswerOutputs)
    np.testing.assert_allclose(first.given.losses, scored.given.losses, rtol=1e-5)
    assert first.given.texts is None and second.given.texts == apart.given.texts
    assert first.tokens == scored.tokens and second.tokens == second.written == apart.written
    assert 0 < seconds < 60 and sum(told) == first.tokens + second.tokens - answering.tokens_a_row(prompt, rows)[1]
    model.shared = False
    assert answering.both(prompt, "base", rows, told.append) is None


def test_prompts_leave_room_for_an_answer() -> None:
    task, model = task_of("text"), tiny_local()
    assert isinstance(model.longest_sequence, int)
    answering = WrittenAnswering(task, model, limit=100)
    assert answering.model.renderer.max_tokens == model.longest_sequence - 100
    long = task.dev[0].__class__("dev:1", {"q": "word " * 2000}, "x")
    reply = answering.score(seed_prompt(task), "base", [long], lambda tokens: None)
    written = answering.write(seed_prompt(task), "base", [long], reply.given, lambda tokens: None)
    assert reply.truncated == 1 and written is not None and written.truncated == 1
    with pytest.raises(InputError, match="no room for a prompt"):
        WrittenAnswering(task, model, limit=500)


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_leave_room_for_right_answers_longer_than_the_limit(chat: bool) -> None:
    """They are read whole, and a model with learned positions has none for what goes beyond."""
    task = task_of("text", 100)
    model = tiny_local("gpt2", chat=chat)
    answering = WrittenAnswering(task, model, limit=8)
    long = [replace(row, fields={"q": "word " * 2000}) for row in task.train[:2]]
    reply = answering.score(seed_prompt(task), "base", long, lambda tokens: None)
    assert reply.truncated == 2 and isinstance(reply.given, AnswerOutputs) and np.isfinite(reply.given.losses).all()
    rows = answering.training_rows(seed_prompt(task), long)
    most = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    assert isinstance(model.longest_sequence, int) and model.longest_sequence - 10 < most <= model.longest_sequence


def test_answers_may_be_a_quarter_longer_than_the_longest() -> None:
    assert most_tokens(10) == 20
    short, long = (WrittenAnswering(task_of("text", length), tiny_local()).limit for length in (1, 20))
    assert short < long


@pytest.mark.parametrize("kind", ["text", "json"])
def test_noise_is_what_other_batches_write(kind: str) -> None:
    task = task_of(kind)
    answering = WrittenAnswering(task, tiny_local(), 8)
    rows = task.dev[:7]
    asked = (seed_prompt(task), "base", rows, RAW)
    found = answering.noise(*asked, odd=3, progress=lambda tokens: None)
    assert found is not None
    noise, tokens = found
    # In float32 the batch hardly matters; what counts here is that both ways answer the same rows in the same order.
    assert noise.n == 7 and noise.flipped <= 1 and tokens > 0
    plain = replace(task, measure=METRICS["likelihood"])
    assert WrittenAnswering(plain, tiny_local(), 8).noise(*asked, odd=3, progress=lambda tokens: None) is None
