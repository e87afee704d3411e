from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotune.model.adapters.files import LoraSettings
from cotune.model.engine import attention, cpu_attention
from cotune.model.engine import plan as planning
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.fallback import pad
from cotune.model.engine.plan import PackedPlan, Tree, padded_count, plan_pass
from cotune.model.engine.row_blocks import RowBlock, rows_of_like_length
from cotune.model.engine.runner import PackedRunner, self_check
from tiny import FITTING, WINDOW, tiny_local, tiny_model, widen_lora

PREFIX = list(range(20, 37))
SUFFIXES = [[50], [60, 61, 62, 63, 64], [70, 71], [80, 81, 82, 83, 84, 85, 86, 87, 88], [50, 61]]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    size = draw(st.integers(0, 6))
    parents = [draw(st.integers(-1, node - 1)) for node in range(size)]
    return Tree(tuple(range(100, 100 + size)), tuple(parents))


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.integers(1, 5))
    with_past = draw(st.booleans())
    past = [draw(st.integers(1, 4)) for _ in range(rows)] if with_past else None
    suffixes = [[row * 10 + i for i in range(draw(st.integers(0 if with_past else 1, 5)))] for row in range(rows)]
    forest = [draw(trees()) for _ in range(rows)]
    for row in range(rows):
        if not suffixes[row] and not forest[row].tokens:
            suffixes[row] = [row * 10]
    head = draw(st.booleans()) and not with_past
    prefix = draw(st.integers(1 if head else 0, 9))
    return {"suffixes": suffixes, "trees": forest, "past": past, "prefix": prefix, "head": list(range(prefix)) if head else []}


def path_positions(layout: dict[str, Any], row: int) -> list[tuple[int, set[int]]]:
    """Slowly, for each own token of a row: its position, and which of (past, own) tokens of that row it may see."""
    past = layout["past"][row] if layout["past"] else 0
    suffix, tree = layout["suffixes"][row], layout["trees"][row]
    facts = []
    for i in range(len(suffix)):
        facts.append((layout["prefix"] + past + i, set(range(past + i + 1))))
    for node in range(len(tree.tokens)):
        seen, depth, above = set(range(past + len(suffix))), -1, node
        while above >= 0:
            seen.add(past + len(suffix) + above)
            depth += 1
            above = tree.parents[above]
        facts.append((layout["prefix"] + past + len(suffix) + depth, seen))
    return facts


@pytest.fixture(params=[0, 20, planning.CALL_COST], ids=["a table a length", "some tables", "one table"])
def call_cost(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What one more table is held to cost."""
    monkeypatch.setattr(planning, "CALL_COST", request.param)
    return int(request.param)


def tables(plan: PackedPlan) -> dict[int, tuple[RowBlock, int, int]]:
    """Of each row its block, its place there, and where its queries begin among those of all blocks."""
    found, end = {}, 0
    for block in plan.blocks:
        for place, row in enumerate(block.rows.tolist()):
            found[row] = (block, place, end + place * block.query_index.shape[1])
        end += block.query_index.numel()
    return found


@given(layouts(), st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_token_sees_exactly_its_path(call_cost: int, layout: dict[str, Any], window: int | None) -> None:
    plan = plan_pass(layout["suffixes"], **{k: v for k, v in layout.items() if k != "suffixes"})
    head, prefix = len(layout["head"]), layout["prefix"]
    pasts = layout["past"] or [0] * len(layout["suffixes"])
    own = [len(s) + len(t.tokens) for s, t in zip(layout["suffixes"], layout["trees"], strict=True)]
    assert sorted(tables(plan)) == list(range(len(own)))
    if not call_cost:
        for block in plan.blocks:
            assert len({(own[row], pasts[row]) for row in block.rows.tolist()}) == 1
    assert len(plan.blocks) == 1 or call_cost <= 20
    assert plan.ids[: plan.tokens].tolist() == layout["head"] + [
        token for s, t in zip(layout["suffixes"], layout["trees"], strict=True) for token in (*s, *t.tokens)
    ]
    assert len(plan.ids) == len(plan.positions) == head + len(plan.unpad_index) == plan.tokens + plan.padding
    assert plan.positions[:head].tolist() == list(range(head))
    before = sum(pasts)
    for row, (block, at, first) in tables(plan).items():
        queries = block.query_index.shape[1]
        full = block.full_mask(window, prefix)[at, 0]
        among_own = block.own_mask(window, 3, torch.float32)[at, 0].view(queries, 3, -1)
        key_index = block.key_index[at]
        start = sum(own[:row])
        assert plan.own_places[row].tolist() == list(range(start, start + own[row]))
        assert block.real[at].tolist() == [place < own[row] for place in range(queries)]
        # which flat (past + own) token each padded key column of this row stands for
        names = [sum(pasts[:row]) + i for i in range(pasts[row])] + [before + start + i for i in range(own[row])]
        facts = path_positions(layout, row)
        positions = [prefix + i for i in range(pasts[row])] + [position for position, _ in facts]
        for place, (position, seen) in enumerate(facts):
            assert plan.positions[head + start + place] == position
            assert int(plan.unpad_index[start + place]) == first + place
            assert block.query_index[at, place] == start + place
            wanted = {names[i] for i in seen if window is None or position - positions[i] < window}
            columns = full[place, prefix:].nonzero().flatten()
            assert sorted(key_index[columns].tolist()) == sorted(wanted)
            assert full[place, :prefix].tolist() == [window is None or position - i < window for i in range(prefix)]
            for copy in range(3):
                assert (among_own[place, copy] == 0).nonzero().flatten().tolist() == columns.tolist()
        # padding sees something, and only of its own row
        for place in range(own[row], queries):
            columns = full[place, prefix:].nonzero().flatten()
            assert len(columns) and set(key_index[columns].tolist()) <= set(names)
        if layout["suffixes"][row]:
            assert plan.last[row] == head + start + len(layout["suffixes"][row]) - 1
        first_node = head + start + len(layout["suffixes"][row])
        assert plan.node_places[row].tolist() == list(range(first_node, head + start + own[row]))
        assert len(key_index) == queries + max(pasts[i] for i in block.rows.tolist())
    assert plan.longest == max(plan.positions.tolist())


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8), trees(), st.integers(0, 4))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_rows_begin_with_alike_runs_once(call_cost: int, suffixes: list[list[int]], tree: Tree, prefix: int) -> None:
    forest = [tree] * len(suffixes)
    plan = plan_pass(suffixes, prefix=prefix, trees=forest, merge=[len(suffix) for suffix in suffixes])
    apart = plan_pass(suffixes, prefix=prefix, trees=forest)
    # Each row's last token is its own; of the others there is one for each way to begin.
    begun = [tuple(suffix[: i + 1]) for suffix in suffixes for i in range(len(suffix) - 1)]
    ends = {tuple(suffix) for suffix in suffixes}
    assert len(suffixes) + len(set(begun) - ends) <= plan.tokens - len(suffixes) * len(tree.tokens)
    assert plan.tokens - len(suffixes) * len(tree.tokens) <= len(suffixes) + len(set(begun))
    for block, other in zip(plan.blocks, apart.blocks, strict=True):
        assert torch.equal(block.allowed, other.allowed) and torch.equal(block.query_positions, other.query_positions)
        assert torch.equal(block.key_index, block.query_index) and torch.equal(block.key_positions, other.key_positions)
    for row, suffix in enumerate(suffixes):
        own = len(suffix) + len(tree.tokens)
        block, at, _ = tables(plan)[row]
        places = block.query_index[at, :own]
        assert plan.own_places[row].tolist() == places.tolist()
        assert plan.ids[places].tolist() == [*suffix, *tree.tokens]
        assert plan.positions[places].tolist() == block.query_positions[at, :own].tolist()
        assert set(block.query_index[at, own:].tolist()) <= {int(places[0])}
        assert plan.last[row] == places[len(suffix) - 1]
        assert plan.node_places[row].tolist() == places[len(suffix) :].tolist()
    # Every token is taken from a place where it was a query.
    queries = torch.cat([block.query_index.flatten() for block in plan.blocks])
    assert queries[plan.unpad_index[: plan.tokens]].tolist() == list(range(plan.tokens))
    assert len(set(plan.last.tolist())) == len(suffixes)


@given(st.integers(1, 100_000))
def test_few_numbers_of_tokens_occur(tokens: int) -> None:
    padded = padded_count(tokens, "cpu")
    assert tokens <= padded <= max(tokens + 7, tokens * 17 / 16)
    # Between a number and its double there are at most 17.
    assert len({padded_count(number, "cpu") for number in range(tokens, min(2 * tokens, tokens + 5000))}) <= 17
    assert padded_count(tokens, "cuda") == tokens


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=6), st.integers(0, 40))
def test_tables_cost_the_least(lengths: list[tuple[int, int]], call_cost: int) -> None:
    queries, keys = [own for own, _ in lengths], [own + past for own, past in lengths]

    def price(rows: Sequence[int]) -> int:
        return len(rows) * max(queries[i] for i in rows) * max(keys[i] for i in rows) + call_cost

    found = rows_of_like_length(queries, keys, call_cost)
    assert sorted(row for rows in found for row in rows.tolist()) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda i: (keys[i], queries[i]))
    for ends in product([False, True], repeat=len(lengths) - 1):
        cuts = [0, *(i + 1 for i, yes in enumerate(ends) if yes), len(lengths)]
        assert sum(map(price, found)) <= sum(price(order[start:end]) for start, end in pairwise(cuts))


def plain_logits(model: Any, sequence: Sequence[int]) -> torch.Tensor:
    use_plain_attention(model)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(sequence)]), use_cache=False).logits[0].float()
    return logits


@pytest.mark.parametrize("kind", [*FITTING, "gpt_neox"])
@pytest.mark.parametrize("prefix", [PREFIX, PREFIX[:3], []])
def test_packed_logits_are_the_plain_ones_everywhere(kind: Any, prefix: list[int]) -> None:
    model = tiny_model(kind)
    tree = Tree((90, 91, 92, 93, 94), (-1, 0, 0, -1, 2))
    branches = [(90,), (90, 91), (90, 92), (93,), (90, 92, 94)]
    plain = []
    for suffix in SUFFIXES:
        plain.append(plain_logits(model, prefix + suffix)[len(prefix) :])
        plain.extend(plain_logits(model, [*prefix, *suffix, *branch])[-1:] for branch in branches)
    runner = PackedRunner(model)
    plan = plan_pass(SUFFIXES, prefix=len(prefix), trees=[tree] * len(SUFFIXES))
    with torch.inference_mode():
        hidden, _ = runner.hidden(plan, runner.prefix(prefix))
        packed = runner.logits(hidden)
    assert torch.cat(plain).std() > 0.5, "degenerate logits would make this test empty"
    torch.testing.assert_close(packed, torch.cat(plain), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", FITTING)
def test_merged_rows_have_the_logits_of_rows_apart(kind: Any) -> None:
    model = tiny_model(kind)
    runner = PackedRunner(model)
    long = list(range(60, 60 + WINDOW + 3))
    suffixes = [long, [*long[:-2], 7], [60, 61], [60, 61], [60, 61, 9, 10], [5]]
    with torch.inference_mode():
        prefix = runner.prefix(PREFIX)
        plan = plan_pass(suffixes, prefix=len(PREFIX), merge=[len(suffix) for suffix in suffixes])
        hidden, _ = runner.hidden(plan, prefix, read=plan.last)
        merged = runner.logits(hidden)
        apart = plan_pass(suffixes, prefix=len(PREFIX))
        hidden, _ = runner.hidden(apart, prefix, read=apart.last)
    assert plan.tokens < apart.tokens - WINDOW
    torch.testing.assert_close(merged, runner.logits(hidden), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", FITTING)
def test_own_tokens_in_two_parts_equal_all_at_once(kind: Any) -> None:
    model = tiny_model(kind)
    runner = PackedRunner(model)
    tree = Tree((90, 91, 92), (-1, 0, -1))
    with torch.inference_mode():
        prefix = runner.prefix(PREFIX)
        whole = plan_pass(SUFFIXES, prefix=len(PREFIX), trees=[tree] * len(SUFFIXES))
        once, _ = runner.hidden(whole, prefix)
        first = plan_pass(SUFFIXES, prefix=len(PREFIX))
        _, keys = runner.hidden(first, prefix, collect=True)
        second = plan_pass(
            [()] * len(SUFFIXES),
            prefix=len(PREFIX),
            trees=[tree] * len(SUFFIXES),
            past=[len(s) for s in SUFFIXES],
        )
        later, _ = runner.hidden(second, prefix, keys)
    nodes = np.concatenate(whole.node_places)
    torch.testing.assert_close(later, once[nodes], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [1, None])
def test_hidden_states_of_a_layer(layer: int | None) -> None:
    model = tiny_model("gemma3")
    use_plain_attention(model)
    with torch.inference_mode():
        plain = model.get_decoder()(torch.tensor([PREFIX + SUFFIXES[1]]), use_cache=False, output_hidden_states=True)
        wanted = plain.last_hidden_state if layer is None else plain.hidden_states[layer]
        runner = PackedRunner(model)
        hidden = runner.states(plan_pass(SUFFIXES, prefix=len(PREFIX)), runner.prefix(PREFIX), [layer])[0]
    torch.testing.assert_close(hidden[1:6], wanted[0, len(PREFIX) :], atol=1e-4, rtol=0)


def gradients(model: Any, *, packed: bool) -> torch.Tensor:
    """Gradient of the summed next-token loss over the own tokens, all LoRA factors in one vector."""
    for parameter in model.parameters():
        parameter.grad = None
    runner = PackedRunner(model)
    if packed:
        plan = plan_pass(SUFFIXES, prefix=len(PREFIX), head=PREFIX)
        hidden, _ = runner.hidden(plan)
        logits = runner.logits(hidden)[len(PREFIX) :]
    else:
        use_plain_attention(model)
        ids, mask = pad([PREFIX + s for s in SUFFIXES], "cpu")
        padded = model(ids, attention_mask=mask, use_cache=False).logits.float()
        logits = torch.cat([padded[i, len(PREFIX) : len(PREFIX) + len(s)] for i, s in enumerate(SUFFIXES)])
    targets = torch.tensor([token + 1 for s in SUFFIXES for token in s])
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if ".lora_" in n])


def relative_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_the_gradient_through_the_shared_prefix_is_exact(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind != "gemma3" or len(PREFIX) > WINDOW
    local = tiny_local(kind)
    widen_lora(local.adapters.start(LoraSettings(rank=4, alpha=8), seed=0))
    plain = gradients(local.model, packed=False)
    assert relative_difference(gradients(local.model, packed=True), plain) < 1e-5

    own = attention._own

    def detached(plan: Any, q: Any, k: Any, v: Any, prefix: Any, *rest: Any) -> torch.Tensor:
        return own(plan, q, k, v, tuple(x.detach() for x in prefix), *rest)

    # The comparison must notice when nothing flows back through the prefix's keys and values.
    monkeypatch.setattr(attention, "_own", detached)
    assert relative_difference(gradients(local.model, packed=True), plain) > 1e-3


@pytest.mark.parametrize("short", [0, 4, cpu_attention.SHORT_KEYS])
def test_the_expanded_and_the_merged_way_agree(call_cost: int, short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flash kernel alone, by both for one pass, and by dense products alone."""
    for module in (attention, cpu_attention):
        monkeypatch.setattr(module, "SHORT_KEYS", short)
    monkeypatch.setattr(cpu_attention, "_LEAST_QUERIES", 1)
    generator = torch.Generator().manual_seed(0)
    plan = plan_pass(SUFFIXES, prefix=len(PREFIX))
    assert [len(block.rows) for block in plan.blocks] == {0: [1, 2, 1, 1], 20: [3, 1, 1]}.get(call_cost, [5])
    own = len(plan.ids)
    assert plan.padding
    q, k, v = (torch.randn(own, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    prefix = tuple(torch.randn(len(PREFIX), 2, 8, generator=generator, requires_grad=True) for _ in range(2))
    inputs = (q, k, v, *prefix)
    results = []
    for way in (
        lambda: attention._own(plan, q, k, v, prefix, None, 0.3, None),
        lambda: attention._expanded(plan, q, k, v, prefix, 0.3, None),
    ):
        out = way()[: plan.tokens]
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        results.append((out.detach(), torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for merged, expanded in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(merged, expanded, atol=1e-5, rtol=1e-4)


def test_attention_outside_of_a_pass_is_refused() -> None:
    model = tiny_model("llama")
    PackedRunner(model)
    model.set_attn_implementation(attention.ATTENTION_NAME)
    with pytest.raises(RuntimeError, match="outside"):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("kind", [*FITTING, "gpt_neox"])
def test_self_check_passes_where_the_engine_fits(kind: Any) -> None:
    assert self_check(tiny_model(kind)) < 1e-4
