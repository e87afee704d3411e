from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import DivergedError, InputError
from cotune.model.adapters.files import LoraSettings
from cotune.model.base import Sampling
from cotune.model.engine import generation as generating
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.decode_attention import DecodeStep, OwnKeyValues
from cotune.model.engine.decoder import slots_in_memory
from cotune.model.engine.score_cache import ScoreCache
from cotune.prompt.prompt import Demonstration, Prompt
from tiny import FITTING, UNFIT, WINDOW, tiny_local, widen_lora

SHOWN = Demonstration((("input", "Who wrote the book?"),), "a person, long ago")
PROMPT = Prompt(instruction="Answer the question.", input_template="Question: {input}", cue="Answer:", demonstrations=(SHOWN,))
ROWS = [
    {"input": text}
    for text in (
        "How tall is the tower?",
        "Who?",
        "What is the capital of the country that the river runs through, and how many people live there?",
        "Where is my card",
        "Where is my money",
        "x",
        "My account is locked and the code does not arrive.",
    )
]
ANSWERS = ["tall", "", "a city of a million people", "card arrival", "refund", "x y z", "account"]


def written_by_transformers(local: Any, prompt_ids: Sequence[int], limit: int) -> tuple[list[int], bool]:
    """Greedy answer of one prompt by ``generate``, and whether it stopped."""
    use_plain_attention(local.model)
    ids = torch.tensor([list(prompt_ids)])
    with torch.inference_mode():
        out = local.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=list(local.stop_ids),
            pad_token_id=0,
        )
    answer = out[0, len(prompt_ids) :].tolist()
    stopped = answer[-1] in local.stop_ids
    return (answer[:-1] if stopped else answer), stopped


def with_stops_that_come_up(local: Any, prompts: Sequence[Sequence[int]], limit: int) -> Any:
    """The model with further stop tokens, which some of its answers reach early, some late and some never."""
    free = [written_by_transformers(local, ids, limit)[0] for ids in prompts[:2]]
    local.stop_ids = tuple(sorted({*local.stop_ids, free[0][2], free[1][limit // 2]}))
    return local


@pytest.mark.parametrize("kind", [*FITTING, *UNFIT, "gpt_neox"])
def test_greedy_answers_are_those_of_transformers_token_by_token(kind: Any) -> None:
    local = tiny_local(kind)
    assert local.shared == (kind not in UNFIT)
    rendered = local.renderer.render_answers(PROMPT, ROWS, None)
    assert kind != "gemma3" or min(len(row.prompt_ids) for row in rendered) > 3 * WINDOW
    with_stops_that_come_up(local, [row.prompt_ids for row in rendered], 16)
    wanted = [written_by_transformers(local, row.prompt_ids, 16) for row in rendered]
    found = local.generate(PROMPT, ROWS, limit=16)
    assert [list(ids) for ids in found.ids] == [ids for ids, _ in wanted]
    assert list(found.ended) == [stopped for _, stopped in wanted]
    assert found.texts == tuple(local.renderer.read(ids) for ids, _ in wanted)
    if kind == "mamba":
        return  # this one says the same token for ever
    assert len({len(ids) for ids in found.ids}) > 1, "answers of one length would not show rows that leave early"


def test_a_models_own_settings_of_generation_have_no_say() -> None:
    """The shared-prefix engine knows none, and an answer must not depend on which of the two serves a model."""
    local = tiny_local("gemma2")
    wanted = local.generate(PROMPT, ROWS, limit=16).ids
    own = local.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.suppress_tokens = 4.0, 1, [ids[0] for ids in wanted if ids]
    assert local.generate(PROMPT, ROWS, limit=16).ids == wanted
    assert local.model.generation_config is own


def test_an_adapter_changes_the_answers(tmp_path: Path) -> None:
    local = tiny_local("llama")
    before = local.generate(PROMPT, ROWS, limit=8)
    widen_lora(local.adapters.start(LoraSettings(rank=4, alpha=8), seed=0))
    adapter = local.adapters.save(local.adapters.weights(), tmp_path)
    tuned = local.generate(PROMPT, ROWS, limit=8, adapter=adapter)
    wanted = [written_by_transformers(local, row.prompt_ids, 8)[0] for row in local.renderer.render_answers(PROMPT, ROWS, None)]
    assert [list(ids) for ids in tuned.ids] == wanted
    assert tuned.ids != before.ids
    assert local.generate(PROMPT, ROWS, limit=8).ids == before.ids


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_row_is_sampled_alike_whoever_stands_beside_it(kind: Any) -> None:
    local = tiny_local(kind)
    hot = Sampling(temperature=0.8, seed=3)
    found = local.generate(PROMPT, ROWS, limit=12, sampling=hot)
    alone = [local.generate(PROMPT, [row], limit=12, sampling=hot).texts[0] for row in ROWS]
    turned = local.generate(PROMPT, ROWS[::-1], limit=12, sampling=hot)
    assert list(found.texts) == alone == list(turned.texts[::-1])
    assert local.generate(PROMPT, ROWS, limit=12, sampling=Sampling(0.8, seed=4)).texts != found.texts
    assert local.generate(PROMPT, ROWS, limit=12).texts != found.texts


def test_sampling_follows_the_distribution() -> None:
    local = tiny_local("llama")
    rendered = local.renderer.render_answers(PROMPT, ROWS[:1], None)
    use_plain_attention(local.model)
    with torch.inference_mode():
        logits = local.model(torch.tensor([rendered[0].prompt_ids])).logits[0, -1]
    shares = torch.softmax(logits.double() / 1.5, 0).numpy()
    first = [local.generate(PROMPT, ROWS[:1], limit=1, sampling=Sampling(1.5, seed)) for seed in range(300)]
    drawn = [answer.ids[0][0] if answer.ids[0] else local.renderer.stop_id for answer in first]
    likely = np.argsort(-shares)[:5]
    for token in likely:
        expected = 300 * shares[token]
        assert abs(drawn.count(token) - expected) < 5 * np.sqrt(expected) + 1


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gemma2"])
def test_losses_of_answers_are_those_of_plain_passes(kind: Any) -> None:
    local = tiny_local(kind)
    rendered = local.renderer.render_answers(PROMPT, ROWS, ANSWERS)
    wanted = []
    use_plain_attention(local.model)
    for row in rendered:
        answer = row.completions[0]
        with torch.inference_mode():
            logits = local.model(torch.tensor([[*row.prompt_ids, *answer]])).logits[0, len(row.prompt_ids) - 1 : -1]
        wanted.append(-torch.log_softmax(logits.double(), -1)[torch.arange(len(answer)), list(answer)].sum().item())
    found = local.answer_losses(PROMPT, ROWS, ANSWERS)
    np.testing.assert_allclose(found.losses, wanted, rtol=1e-5)
    assert found.lengths.tolist() == [len(row.completions[0]) for row in rendered]
    assert len(set(found.lengths.tolist())) > 2
    assert (found.tokens_saved > 0) == local.shared


def test_answers_and_losses_come_back_from_the_cache_at_the_same_cost(tmp_path: Path) -> None:
    local = tiny_local("llama", cache=ScoreCache(tmp_path / "scores.sqlite"))
    told: list[int] = []
    twice: list[int] = []
    first = local.generate(PROMPT, ROWS, limit=9, progress=told.append)
    losses = local.answer_losses(PROMPT, ROWS, ANSWERS, progress=told.append)
    assert len(told) > 9, "nothing was told between the beginning and the end"
    local.adapters.use = None  # whatever runs now would fail
    again = local.generate(PROMPT, ROWS, limit=9, progress=twice.append)
    same = local.answer_losses(PROMPT, ROWS, ANSWERS, progress=twice.append)
    assert (again.ids, again.texts, again.ended, again.tokens) == (first.ids, first.texts, first.ended, first.tokens)
    assert again.tokens_saved == first.tokens_saved
    assert again.cached == same.cached == len(ROWS) and first.cached == losses.cached == 0
    assert same.losses.tobytes() == losses.losses.tobytes() and same.tokens == losses.tokens
    assert sum(told) == sum(twice)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("slots", [2, 100])
def test_right_answers_are_read_beside_written_ones(
    kind: Any, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tiny_local(kind, cache=ScoreCache(tmp_path / "scores.sqlite"))
    apart, losses = local.generate(PROMPT, ROWS, limit=9), local.answer_losses(PROMPT, ROWS, ANSWERS)
    monkeypatch.setattr(generating, "slots_in_memory", lambda *_: slots)
    both = local.generate(PROMPT, ROWS, limit=9, references=ANSWERS)
    assert both.cached == 0 and both.ids == apart.ids and both.ended == apart.ended
    np.testing.assert_allclose(both.reference_losses.losses, losses.losses, rtol=1e-5)
    assert both.reference_losses.lengths.tolist() == losses.lengths.tolist()
    assert both.tokens == losses.tokens + apart.written and both.written == apart.written
    again = local.generate(PROMPT, ROWS, limit=9, references=ANSWERS)
    assert again.cached == len(ROWS) and again.ids == both.ids and again.tokens == both.tokens
    assert again.reference_losses.losses.tobytes() == both.reference_losses.losses.tobytes()
    assert local.generate(PROMPT, ROWS, limit=9, references=[*ANSWERS[:-1], "other"]).cached == 0
    local.shared = False
    with pytest.raises(InputError, match="shared-prefix engine"):
        local.generate(PROMPT, ROWS, limit=9, references=ANSWERS)


def test_whatever_changes_answers_changes_the_key(tmp_path: Path) -> None:
    local = tiny_local("llama", cache=ScoreCache(tmp_path / "scores.sqlite"))
    local.generate(PROMPT, ROWS, limit=9)
    for change in ({"limit": 8}, {"sampling": Sampling(0.5, 0)}, {"sampling": Sampling(0.0, 1)}):
        assert local.generate(PROMPT, ROWS, **{"limit": 9, **change}).cached == 0
    assert local.generate(PROMPT, ROWS[1:], limit=9).cached == 0
    assert local.generate(PROMPT, ROWS, limit=9).cached == len(ROWS)


def test_not_a_number_is_told() -> None:
    local = tiny_local("llama")
    with torch.no_grad():
        local.model.get_output_embeddings().weight[5, 0] = float("nan")
    with pytest.raises(DivergedError, match="not finite"):
        local.generate(PROMPT, ROWS, limit=4)
    with pytest.raises(DivergedError, match="not finite"):
        local.answer_losses(PROMPT, ROWS, ANSWERS)


def test_nothing_to_do_and_what_cannot_be_done() -> None:
    local = tiny_local("llama")
    assert local.generate(PROMPT, [], limit=4).texts == ()
    assert len(local.answer_losses(PROMPT, [], []).losses) == 0
    with pytest.raises(InputError, match="at least one token"):
        local.generate(PROMPT, ROWS, limit=0)
    with pytest.raises(InputError, match="more than the model's 512"):
        local.generate(PROMPT, ROWS, limit=500)
    long = ["x" * 600] * len(ROWS)
    with pytest.raises(InputError, match="an answer of 601 are more than the model's 512"):
        local.answer_losses(PROMPT, ROWS, long)
    with pytest.raises(InputError, match="an answer of 601 are more than the model's 512"):
        local.generate(PROMPT, ROWS, limit=4, references=long)
    with pytest.raises(InputError, match="temperature"):
        local.generate(PROMPT, ROWS, limit=4, sampling=Sampling(-1.0))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("slots", [1, 3])
def test_rows_leave_and_enter_a_small_batch(kind: Any, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny_local(kind)
    rendered = local.renderer.render_answers(PROMPT, ROWS, None)
    with_stops_that_come_up(local, [row.prompt_ids for row in rendered], 40)
    at_once = local.generate(PROMPT, ROWS, limit=40)
    monkeypatch.setattr(generating, "slots_in_memory", lambda *_: slots)
    widths = []
    step = local.runner.step
    monkeypatch.setattr(local.runner, "step", lambda ids, *rest: (widths.append(len(ids)), step(ids, *rest))[1])
    found = local.generate(PROMPT, ROWS, limit=40)
    assert found.ids == at_once.ids and found.ended == at_once.ended
    assert found.tokens == at_once.tokens, "what a request costs must not depend on memory"
    assert max(widths) == slots
    for i in (0, 2):
        assert list(found.ids[i]) == written_by_transformers(local, rendered[i].prompt_ids, 40)[0]


@pytest.mark.parametrize("prefix", [0, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5, 12])
@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 1, 6)])
def test_a_step_attends_to_just_what_each_token_sees(
    prefix: int, dtype: torch.dtype, window: int | None, counts: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, heads, group, size = [4, 1, 7], 2, 3, 8
    before = [torch.randn(prefix, heads, size, generator=generator).to(dtype) for _ in range(2)]
    own = OwnKeyValues(4, 40)
    own.reserve(13)
    earlier = [[torch.randn(length, heads, size, generator=generator).to(dtype) for _ in range(2)] for length in lengths]
    for slot, (keys, values) in enumerate(earlier):
        own.write(0, torch.full((lengths[slot],), slot), torch.arange(lengths[slot]), keys, values)
    filler = torch.full((1, heads, size), 9.0, dtype=dtype)
    own.write(0, torch.tensor([3]), torch.tensor([0]), filler, filler)
    q = torch.randn(sum(counts), heads * group, size, generator=generator).to(dtype)
    k, v = (torch.randn(sum(counts), heads, size, generator=generator).to(dtype) for _ in range(2))
    step = DecodeStep(own, lengths, counts, prefix)
    assert step.positions.tolist() == [prefix + lengths[row] + i for row in range(3) for i in range(counts[row])]
    found = step.attend(0, q, k, v, (before[0], before[1]) if prefix else None, 0.4, window)
    for row, (keys, values) in enumerate(earlier):
        first = sum(counts[:row])
        assert step.last[row] == first + counts[row] - 1
        for token in range(first, first + counts[row]):
            seen_k, seen_v = (
                torch.cat([before[i], (keys, values)[i], (k, v)[i][first : token + 1]])[-(window or 99) :].double()
                for i in range(2)
            )
            for head in range(heads * group):
                weights = torch.softmax(seen_k[:, head // group] @ q[token, head].double() * 0.4, 0)
                wanted = weights @ seen_v[:, head // group]
                near = 1e-5 if dtype == torch.float32 else 0.03
                torch.testing.assert_close(found[token, head].double(), wanted, atol=near, rtol=0)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_prompts_that_share_nothing(kind: Any) -> None:
    local = tiny_local(kind, chat=False)
    prompt = Prompt(instruction="Answer.", order="input_first")
    rendered = local.renderer.render_answers(prompt, ROWS, None)
    assert len({row.prompt_ids[0] for row in rendered}) > 1
    found = local.generate(prompt, ROWS, limit=10)
    wanted = [written_by_transformers(local, row.prompt_ids, 10)[0] for row in rendered]
    assert [list(ids) for ids in found.ids] == wanted
    assert found.tokens_saved == 0


def test_where_memory_runs_out_fewer_rows_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny_local("llama")
    wanted = local.generate(PROMPT, ROWS, limit=12)
    step, widths = local.runner.step, []

    def narrow(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.append(len(ids))
        if len(ids) > 3:
            raise RuntimeError("[enforce fail] not enough memory: you tried to allocate 1 byte")
        result: torch.Tensor = step(ids, *rest)
        return result

    monkeypatch.setattr(local.runner, "step", narrow)
    found = local.generate(PROMPT, ROWS, limit=12)
    assert found.ids == wanted.ids and found.tokens == wanted.tokens
    assert widths[0] == len(ROWS) and max(widths[1:]) == 3
    told: list[int] = []
    local.generate(PROMPT, ROWS, limit=12, progress=told.append)
    prefix = wanted.tokens - sum(told)
    assert 0 < prefix < min(len(row.prompt_ids) for row in local.renderer.render_answers(PROMPT, ROWS, None))


def test_a_kept_prefix_serves_single_rows() -> None:
    local = tiny_local("llama")
    wanted = local.generate(PROMPT, ROWS, limit=6)
    length = local.keep_prefix(PROMPT, ("input",), ())
    assert length > 10
    alone = [local.generate(PROMPT, [row], limit=6) for row in ROWS]
    assert [one.ids[0] for one in alone] == list(wanted.ids)
    prompts = local.renderer.render_answers(PROMPT, ROWS, None)
    assert alone[0].tokens == len(prompts[0].prompt_ids) + len(alone[0].ids[0]) - (not alone[0].ended[0])


def test_rows_in_flight_take_a_share_of_memory_and_on_a_cpu_no_more_than_pays() -> None:
    assert generating.room_for_rows("cpu", 2 << 30) == 256 << 20
    assert generating.room_for_rows("cpu", 64 << 30) == 1 << 30
    assert generating.room_for_rows("cuda", 80 << 30) == 10 << 30


def test_layers_may_have_keys_of_different_widths() -> None:
    config = SimpleNamespace(num_hidden_layers=2, num_key_value_heads=2, head_dim=8)
    assert slots_in_memory(config, 4, 10, 2 * 2 * 2 * 8 * 4 * 10 * 5) == 5
    wide, narrow = (SimpleNamespace(num_key_value_heads=2, head_dim=size) for size in (24, 8))
    each = SimpleNamespace(num_hidden_layers=2, per_layer_config=[wide, narrow])
    assert slots_in_memory(each, 4, 10, 2 * 2 * (24 + 8) * 4 * 10 * 5) == 5
