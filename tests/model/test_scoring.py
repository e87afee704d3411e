from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import DivergedError
from cotune.model.adapters.files import BASE, LoraSettings
from cotune.model.engine import label_scoring
from cotune.model.engine import scoring as scoring_module
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.fallback import naive_label_scores
from cotune.model.engine.runner import PackedRunner
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.scoring import cut_batches, score_batch, score_batch_top
from cotune.model.engine.settings import EngineSettings
from cotune.model.engine.trie import label_paths
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.prompt.render import RenderedRow, shared_prefix
from tiny import FITTING, UNFIT, WINDOW, merging_tokenizer, tiny_local, tiny_model

ROWS = [
    {"input": text}
    for text in (
        "Who?",
        "How tall is the tower and who built it, and when, and for whom, and why so high?",
        "What is the capital?",
        "My card was not delivered",
        "{labels} {input}",
        "Who wrote the book about the river, the city and the tower?",
        "é",
    )
]
# Several tokens each, some that begin alike, one that is the beginning of another.
LONG_LABELS = ("card", "card arrival", "card delivery time", "refund", "refund not showing up", "account locked", "z")
# More of them that part late, so that there are branches to open.
DEEP_LABELS = (
    *LONG_LABELS,
    *(f"{start} {end}" for start in ("account locked", "refund not yet", "card stolen") for end in ("today", "twice", "again")),
)
SHORT_LABELS = ("a", "b", "c", "d")
PROMPT = Prompt(
    instruction="Classify the question. Labels: {labels}.",
    cue="Label:",
    demonstrations=(Demonstration((("input", "Who built it?"),), "card"),),
)
INPUT_FIRST = Prompt(input_template="{input}", instruction="Name the topic.", cue="Label:", order="input_first")


def naive(local: LocalModel, prompt: Prompt, rows: list[dict[str, str]], labels: tuple[str, ...]) -> Any:
    rendered = local.renderer.render(prompt, rows, labels)
    return naive_label_scores(local.model, rendered, batch_tokens=2048)[0]


@pytest.mark.parametrize("labels", [LONG_LABELS, SHORT_LABELS, LONG_LABELS[1:3], ("card",)])
@pytest.mark.parametrize("kind", FITTING)
def test_scores_equal_naive_ones(kind: Any, labels: tuple[str, ...]) -> None:
    local = tiny_local(kind)
    assert local.shared
    rendered = local.renderer.render(PROMPT, ROWS, labels)
    shared = shared_prefix([row.prompt_ids for row in rendered])
    assert shared > WINDOW and len({len(row.prompt_ids) for row in rendered}) > 4
    found = local.score(PROMPT, ROWS, labels)
    wanted = naive(local, PROMPT, ROWS, labels)
    assert wanted.std() > 0.3
    np.testing.assert_allclose(found.log_probs, wanted, atol=1e-4, rtol=0)
    assert found.tokens < sum(len(row.prompt_ids) for row in rendered) and found.tokens_saved > 0


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", UNFIT)
def test_a_plain_pass_is_bounded_and_computes_the_logits_that_are_read(kind: Any, whole: bool) -> None:
    """The logits of all tokens of 16 rows take gigabytes with a vocabulary of 256,000."""
    local = tiny_local(kind)
    rendered = local.renderer.render(PROMPT, ROWS, LONG_LABELS)
    answers = [
        answer if whole else path
        for row in rendered
        for answer, path in zip(row.completions, label_paths(row.completions), strict=True)
    ]
    wanted = naive_label_scores(local.model, rendered, batch_tokens=1, whole=whole)
    passes: list[int] = []
    read: list[int] = []
    local.model.get_input_embeddings().register_forward_hook(lambda _, given, __: passes.append(given[0].numel()))
    local.model.get_output_embeddings().register_forward_hook(lambda _, __, logits: read.append(logits[..., 0].numel()))
    found = naive_label_scores(local.model, rendered, batch_tokens=400, whole=whole)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-4, rtol=0)
    assert found[1] == wanted[1]
    assert 1 < len(passes) < len(answers) and max(passes) < 2 * 400
    assert sum(read) == sum(map(len, answers))


def test_a_plain_pass_runs_in_halves_if_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny_local("gemma2")
    wanted = local.score(PROMPT, ROWS, LONG_LABELS).log_probs
    sizes: list[int] = []

    def narrow(_: Any, __: Any, given: dict[str, Any]) -> None:
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    local.model.get_decoder().register_forward_pre_hook(narrow, with_kwargs=True)
    np.testing.assert_allclose(local.score(PROMPT, ROWS, LONG_LABELS).log_probs, wanted, atol=1e-4, rtol=0)
    assert max(sizes) > 3


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_prompts_that_share_nothing(kind: Any) -> None:
    local = tiny_local(kind, chat=False)
    rendered = local.renderer.render(INPUT_FIRST, ROWS, LONG_LABELS)
    assert shared_prefix([row.prompt_ids for row in rendered]) == 0
    found = local.score(INPUT_FIRST, ROWS, LONG_LABELS).log_probs
    np.testing.assert_allclose(found, naive(local, INPUT_FIRST, ROWS, LONG_LABELS), atol=1e-4, rtol=0)


def test_rows_whose_answers_are_cut_differently() -> None:
    # Without a chat template a merge may reach from the answer into the prompt, for some rows only.
    local = LocalModel(tiny_model("llama"), merging_tokenizer(), fingerprint="merging")
    prompt = Prompt(input_template="{input}", cue="", order="input_first")
    rows = [{"input": text} for text in ("Question: Who\nAnswer:", "How tall", "the ci", "Read. Question:")]
    labels = ("place", "person", "ty")
    rendered = local.renderer.render(prompt, rows, labels)
    assert len({row.completions for row in rendered}) > 1
    wanted = naive(local, prompt, rows, labels)
    np.testing.assert_allclose(local.score(prompt, rows, labels).log_probs, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 40, 150])
@pytest.mark.parametrize("top", [None, 2])
def test_how_batches_are_cut_changes_nothing(batch_tokens: int, top: int | None) -> None:
    whole = tiny_local("gemma3").score(PROMPT, ROWS, LONG_LABELS, top=top)
    cut = tiny_local("gemma3", settings=EngineSettings(batch_tokens=batch_tokens))
    told: list[int] = []
    found = cut.score(PROMPT, ROWS, LONG_LABELS, top=top, progress=told.append)
    np.testing.assert_allclose(found.log_probs, whole.log_probs, atol=1e-4, rtol=0)
    assert len(told) > 1
    if top is None:
        assert found.tokens == whole.tokens


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("top", [1, 2, 3, 99])
def test_top_k_is_exact_for_the_best_and_leaves_out_only_others(kind: Any, top: int) -> None:
    local = tiny_local(kind)
    full = local.score(PROMPT, ROWS, DEEP_LABELS)
    found = local.score(PROMPT, ROWS, DEEP_LABELS, top=top)
    assert np.isfinite(full.log_probs).all()
    for row in range(len(ROWS)):
        best = np.argsort(-full.log_probs[row])[:top]
        np.testing.assert_allclose(found.log_probs[row, best], full.log_probs[row, best], atol=1e-4, rtol=0)
        others = np.setdiff1d(np.arange(len(DEEP_LABELS)), best)
        left_out = np.isneginf(found.log_probs[row, others])
        known = others[~left_out]
        np.testing.assert_allclose(found.log_probs[row, known], full.log_probs[row, known], atol=1e-4, rtol=0)
    assert top > 3 or np.isneginf(found.log_probs).any()


@pytest.mark.parametrize("seed", range(4))
def test_top_k_is_exact_where_paths_are_nearly_tied(seed: int) -> None:
    # Sharp distributions, and labels that follow likely continuations and end early or late: a path in the lead may fall back.
    model = tiny_model("llama", seed=seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    prompt = list(range(40, 52))
    done: list[tuple[int, ...]] = []
    growing: list[tuple[int, ...]] = [()]
    for depth in range(3):
        grown = []
        for path in growing:
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *path]]), use_cache=False).logits[0, -1]
            grown.extend((*path, int(token)) for token in logits.topk(4).indices)
        done.extend(grown[1::2] if depth < 2 else grown)
        growing = grown[::2]
    completions = tuple((*path, 0) for path in done)
    rows = [RenderedRow((*prompt[: 12 - i], *range(60, 60 + i)), completions, False) for i in range(5)]
    runner = PackedRunner(model)
    (batch,) = cut_batches(rows, 8, 10_000)
    with torch.inference_mode():
        prefix = runner.prefix(prompt[:8])
        full = score_batch(runner, prefix, batch)
        for top in (1, 2, 4):
            found, _ = score_batch_top(runner, prefix, batch, top)
            for row in range(len(rows)):
                best = np.argsort(-full[row])[:top]
                np.testing.assert_allclose(found[row, best], full[row, best], atol=1e-4, rtol=0)


def test_top_k_runs_fewer_tokens() -> None:
    local = tiny_local("llama")
    # One label that nearly always wins at once, and many long ones that cannot.
    rows = [{"input": f"question {i} of the day"} for i in range(8)]
    rendered = local.renderer.render(PROMPT, rows, SHORT_LABELS)
    use_plain_attention(local.model)
    with torch.inference_mode():
        logits = local.model(torch.tensor([rendered[0].prompt_ids]), use_cache=False).logits[0, -1]
    best = local.tokenizer.decode([int(logits[3:].argmax()) + 3])
    ends = ("showing up", "in part")
    labels = (best, *(f"{word} {i} refund not {end}" for i, word in enumerate(("zebra", "yak", "xylophone")) for end in ends))
    full, pruned = (local.score(PROMPT, rows, labels, top=top) for top in (None, 1))
    assert (full.log_probs.argmax(1) == pruned.log_probs.argmax(1)).all()
    assert pruned.tokens < full.tokens and np.isneginf(pruned.log_probs).any()


def test_top_k_opens_the_likeliest_branches_first() -> None:
    """Once a label is complete, branches that begin worse stay closed: not one token of them is run."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    prompt = tuple(range(40, 52))

    def next_tokens(ids: tuple[int, ...]) -> list[int]:
        with torch.inference_mode():
            found: list[int] = model(torch.tensor([ids]), use_cache=False).logits[0, -1].argsort(descending=True).tolist()
        return found

    first, *others = next_tokens(prompt)
    likely, second = next_tokens((*prompt, first))[:2]
    labels = ((first, likely, 0), (first, second, 0), *((token, end, 0) for token in others[-40:] for end in (5, 6)))
    runner = PackedRunner(model)
    (batch,) = cut_batches([RenderedRow(prompt, labels, False)] * 3, 11, 10_000)
    with torch.inference_mode():
        found, tokens = score_batch_top(runner, runner.prefix(prompt[:11]), batch, 1)
    assert (found.argmax(axis=1) == 0).all() and np.isfinite(found[:, 0]).all()
    assert tokens == 3 * 2, "of each row its own token and the likely branch's"


def test_no_rows_give_no_scores() -> None:
    assert tiny_local("llama").score(PROMPT, [], LONG_LABELS).log_probs.shape == (0, len(LONG_LABELS))


def test_scores_that_are_not_finite_are_loud(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    local = tiny_local("llama", cache=cache)
    with torch.no_grad():
        local.model.model.norm.weight.fill_(torch.nan)
    for _ in range(2):  # nothing of it was kept
        with pytest.raises(DivergedError, match=PROMPT.id):
            local.score(PROMPT, ROWS, LONG_LABELS)


@pytest.mark.parametrize("top", [None, 2])
def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch, top: int | None) -> None:
    local = tiny_local("llama")
    wanted = local.score(PROMPT, ROWS, LONG_LABELS, top=top)
    name = "score_batch" if top is None else "score_batch_top"
    run, sizes = getattr(scoring_module, name), []

    def short_of_memory(runner: Any, prefix: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch.places))
        if len(batch.places) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return run(runner, prefix, batch, *rest)

    monkeypatch.setattr(scoring_module, name, short_of_memory)
    found = local.score(PROMPT, ROWS, LONG_LABELS, top=top)
    assert sizes[:2] == [7, 3] and max(sizes[2:]) <= 4
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, atol=1e-4, rtol=0)
    monkeypatch.setattr(scoring_module, name, lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")))
    with pytest.raises(torch.OutOfMemoryError):
        local.score(PROMPT, ROWS, LONG_LABELS, top=top)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    local, calls = tiny_local("llama"), []

    def broken(*_: Any) -> Any:
        calls.append(1)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(scoring_module, "score_batch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        local.score(PROMPT, ROWS, LONG_LABELS)
    assert len(calls) == 1


# Architectures that the engine does not fit ------------------------------------------------------------------------


def own_scores(kind: Any, rendered: list[RenderedRow], labels: int) -> Any:
    """Label scores of a model that cotune never touched, row by row, with the attention it was loaded with."""
    model = tiny_model(kind)
    scores = np.zeros((len(rendered), labels))
    for i, row in enumerate(rendered):
        for j, completion in enumerate(row.completions):
            told_apart = next(
                n for n in range(1, 99) if all(other[:n] != completion[:n] for other in row.completions if other != completion)
            )
            ids = torch.tensor([[*row.prompt_ids, *completion[:told_apart]]])
            with torch.inference_mode():
                log_probs = model(ids, use_cache=False).logits[0].float().log_softmax(-1)
            for place in range(len(row.prompt_ids), ids.shape[1]):
                scores[i, j] += float(log_probs[place - 1, ids[0, place]])
    return scores


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_architecture_is_served_by_plain_batches(kind: Any) -> None:
    local = tiny_local(kind)
    assert not local.shared
    rows, labels = ROWS[:3], LONG_LABELS[:2]
    found = local.score(PROMPT, rows, labels)
    wanted = own_scores(kind, local.renderer.render(PROMPT, rows, labels), len(labels))
    np.testing.assert_allclose(found.log_probs, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gemma3", "gemma2"])
@pytest.mark.parametrize("layer", [1, None])
def test_last_states_are_those_of_each_sequence_alone(kind: Any, layer: int | None) -> None:
    local = tiny_local(kind, settings=EngineSettings(batch_tokens=12))
    start = list(range(30, 41))
    sequences = [[*start, *tail] for tail in ([5], [6, 7, 8, 9], [6, 7], [10, 11, 12, 13, 14, 15, 16])]
    model = tiny_model(kind)
    wanted = []
    for sequence in sequences:
        with torch.inference_mode():
            output = model.get_decoder()(torch.tensor([sequence]), use_cache=False, output_hidden_states=True)
        wanted.append((output.last_hidden_state if layer is None else output.hidden_states[layer])[0, -1].numpy())
    np.testing.assert_allclose(local.last_states(sequences, layer=layer), np.stack(wanted), atol=1e-4, rtol=0)


# The cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "top"), [("llama", None), ("llama", 1), ("gemma2", None)])
def test_a_hit_is_identical_and_costs_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, top: int | None
) -> None:
    local = tiny_local(kind, cache=ScoreCache(tmp_path / "scores.sqlite"), settings=EngineSettings(batch_tokens=150))
    told: list[int] = []
    first = local.score(PROMPT, ROWS, LONG_LABELS, top=top, progress=told.append)
    again = tiny_local(kind, cache=ScoreCache(tmp_path / "scores.sqlite"), settings=EngineSettings(batch_tokens=150))
    monkeypatch.setattr(label_scoring, "_compute", lambda *_: pytest.fail("computed again"))
    told_again: list[int] = []
    second = again.score(PROMPT, ROWS, LONG_LABELS, top=top, progress=told_again.append)
    assert (first.cached, second.cached) == (0, len(ROWS))
    assert first.log_probs.tobytes() == second.log_probs.tobytes()
    # A token budget must end alike, whether the run was interrupted or not.
    assert (first.tokens, first.tokens_saved, told) == (second.tokens, second.tokens_saved, told_again)


def test_the_key_holds_what_could_change_the_answer(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    local = tiny_local("llama", cache=cache)
    local.adapters.start(LoraSettings(rank=2, alpha=4), seed=0)
    adapter = local.adapters.save(local.adapters.weights(), tmp_path)

    def cached(model: LocalModel = local, **changes: Any) -> int:
        call: dict[str, Any] = {"prompt": PROMPT, "rows": ROWS[:2], "labels": LONG_LABELS, **changes}
        return model.score(call.pop("prompt"), call.pop("rows"), call.pop("labels"), **call).cached

    assert cached() == 0 and cached() == 2
    assert cached(adapter=adapter) == 0
    assert cached(labels=LONG_LABELS[:-1]) == 0
    # The words a prompt has for its labels, where the prompt itself does not show them.
    bare = PROMPT.edit(instruction="Answer.", demonstrations=())
    assert cached(prompt=bare) == 0 and cached(prompt=bare) == 2
    assert cached(prompt=bare.edit(label_words=(("z", "w"),))) == 0
    assert cached(prompt=PROMPT.edit(cue="Topic:")) == 0
    assert cached(rows=ROWS[2:4]) == 0
    assert cached(top=1) == 0 and cached(top=2) == 0
    assert cached(tiny_local("llama", cache=cache, settings=EngineSettings(dtype="bfloat16"))) == 0
    assert cached(tiny_local("llama", cache=cache, seed=1)) == 0
    unshared = tiny_local("llama", cache=cache)
    unshared.shared = False
    assert cached(unshared) == 0
    assert cached(tiny_local("llama", cache=cache)) == 2, "the same request must still be known"


def test_scores_of_other_instructions_are_not_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sums in another order end in other digits, so what one processor computed is no answer on another."""
    cache = ScoreCache(tmp_path / "scores.sqlite")
    prompt, rows, labels = Prompt(cue="Label:"), [{"input": "Who?"}, {"input": "How tall?"}], ("person", "place")
    assert tiny_local(cache=cache).score(prompt, rows, labels).cached == 0
    assert tiny_local(cache=cache).score(prompt, rows, labels).cached == 2
    # As far as its name tells, it could lay out weights as this one does.
    other = f"{torch.backends.cpu.get_cpu_capability()} of another kind"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: other)
    assert tiny_local(cache=cache).score(prompt, rows, labels).cached == 0


@pytest.mark.parametrize("text", ["hello world 5", "  hello world 5", "\n\nhello world 5", "\thello 5"])
def test_words_of_a_single_row_are_read_as_beside_others(tmp_path: Path, text: str) -> None:
    """White space before the first word belongs to the text, whose state is read too."""
    local = tiny_local()
    labels, prompt = ("no", "in", "x", "y"), Prompt("Extract.", "Text: {text}", "Answer:")
    weight = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    probe = Probe(labels, weight, np.zeros(4, np.float32), 2, None, (2, 2), words=True)
    adapter = local.adapters.add_probe(BASE, probe, tmp_path)
    alone = local.score(prompt, [{"text": text}], labels, adapter=adapter).log_probs
    beside = local.score(prompt, [{"text": text}, {"text": "The card"}], labels, adapter=adapter).log_probs
    np.testing.assert_allclose(alone, beside[: len(alone)], atol=1e-4)
