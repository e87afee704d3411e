"""Passes that begin at a tuned window's edge give the very same states as passes through all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.model.adapters.files import BASE, LoraSettings
from cotune.model.engine.edge_states import EdgeStates
from cotune.model.engine.plan import plan_pass
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt
from cotune.prompt.reads import Read
from cotune.tune.window import WindowStates
from tiny import tiny_local, widen_lora

DEPTH, WIDTH = 4, 32
_DRAW = np.random.default_rng(0)
PREFIX = _DRAW.integers(3, 440, 9).tolist()
SEQUENCES = [[*PREFIX, 3 + i % 5, *_DRAW.integers(3, 440, 1 + 3 * (i % 4)).tolist()] for i in range(20)]
STARTS: list[Read] = [len(PREFIX) - 1] * 20
WORDS: list[Read] = [((9, 10), (10, len(ids))) for ids in SEQUENCES]
PROMPT, LABELS = Prompt(instruction="Sort.", input_template="{text}", cue="So:"), ("yes", "no")
ROWS = [{"text": f"row number {i} {'x ' * (i % 7)}"} for i in range(20)]


def local_of(kind: Any = "llama", most_bytes: int = 10**6) -> LocalModel:
    found: LocalModel = tiny_local(kind, num_hidden_layers=DEPTH, batch_tokens=40)
    found.runner.edges = EdgeStates(most_bytes)
    return found


def tuned(local: LocalModel, folder: Path, *layers: int) -> str:
    """An adapter of some layers that changes their states."""
    widen_lora(local.adapters.start(LoraSettings(rank=2, alpha=4, layers=layers), seed=3))
    return local.adapters.save(local.adapters.weights(), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


def registered(folder: Path, adapter: str, kind: Any = "llama", most_bytes: int = 10**6) -> LocalModel:
    local = local_of(kind, most_bytes)
    assert local.adapters.register(folder / adapter) == adapter
    return local


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("reads", [STARTS, None, WORDS], ids=["rows", "last", "words"])
def test_a_pass_from_the_edge_is_bitwise_the_same(folder: Path, kind: Any, reads: list[Read] | None) -> None:
    adapter = tuned(local_of(kind), folder, 2, 3)
    without, local = registered(folder, adapter, kind, 0), registered(folder, adapter, kind)
    wanted = without.layer_states(SEQUENCES, [4], reads=reads, adapter=adapter)
    assert local.layer_states(SEQUENCES, [4], reads=reads, adapter=adapter).tobytes() == wanted.tobytes()
    assert local.runner.edges.began == 0
    assert local.layer_states(SEQUENCES, [4], reads=reads, adapter=adapter).tobytes() == wanted.tobytes()
    assert local.runner.edges.began == 2


def test_frozen_passes_keep_the_states_that_later_tuned_passes_begin_with(folder: Path) -> None:
    adapter = tuned(local_of(), folder, 1, 2)
    local, without = registered(folder, adapter), registered(folder, adapter, most_bytes=0)
    # No edge is worth keeping before an adapter was used.
    local.layer_states(SEQUENCES[:3], [3], reads=STARTS[:3])
    local.layer_states(SEQUENCES[:3], [3], reads=STARTS[:3], adapter=adapter)
    assert local.runner.edges.began == 0
    base = local.layer_states(SEQUENCES, [2, 4], reads=STARTS)
    assert base.tobytes() == without.layer_states(SEQUENCES, [2, 4], reads=STARTS).tobytes()
    found = local.layer_states(SEQUENCES, [3], reads=STARTS, adapter=adapter)
    assert local.runner.edges.began == 1
    assert found.tobytes() == without.layer_states(SEQUENCES, [3], reads=STARTS, adapter=adapter).tobytes()
    # The frozen model has other layers above.
    local.layer_states(SEQUENCES, [3], reads=STARTS)
    assert local.runner.edges.began == 0


def test_a_window_below_gives_nothing_to_an_adapter_of_lower_layers(folder: Path) -> None:
    high, low = tuned(local_of(), folder, 2), tuned(local_of(), folder, 1)
    local, without = registered(folder, high), registered(folder, low, most_bytes=0)
    local.adapters.register(folder / low)
    for adapter in (high, low, high, low):
        found = local.layer_states(SEQUENCES, [4], reads=STARTS, adapter=adapter)
    assert local.runner.edges.began == 1
    assert found.tobytes() == without.layer_states(SEQUENCES, [4], reads=STARTS, adapter=low).tobytes()
    # A layer below the edge is read: all run.
    local.layer_states(SEQUENCES, [1, 4], reads=STARTS, adapter=high)
    assert local.runner.edges.began == 0


def test_other_rows_in_a_pass_are_another_pass(folder: Path) -> None:
    adapter = tuned(local_of(), folder, 2)
    local = registered(folder, adapter)
    local.layer_states(SEQUENCES, [4], reads=STARTS, adapter=adapter)
    local.layer_states(SEQUENCES[1:2], [4], reads=STARTS[1:2], adapter=adapter)
    assert local.runner.edges.began == 0
    shifted = [[*ids[:-1], 7] for ids in SEQUENCES]
    local.layer_states(shifted, [4], reads=STARTS, adapter=adapter)
    assert local.runner.edges.began == 0


def test_tuned_states_begin_with_those_that_were_computed_for_tuning(folder: Path) -> None:
    adapter = tuned(local_of(), folder, 2, 3)
    local, without = registered(folder, adapter), registered(folder, adapter, most_bytes=0)
    states, alone = (WindowStates(one, SEQUENCES, 2, reads=STARTS) for one in (local, without))
    tokens: list[int] = []
    found = local.layer_states(SEQUENCES, [4], reads=STARTS, adapter=adapter, progress=tokens.append)
    assert local.runner.edges.began == 2
    assert found.tobytes() == without.layer_states(SEQUENCES, [4], reads=STARTS, adapter=adapter).tobytes()
    # Half of the layers ran for the rows' own tokens, and all of them for the shared ones.
    own = sum(map(len, SEQUENCES)) - 20 * states.length
    assert sum(tokens) == pytest.approx(states.length + own / 2, abs=len(tokens))
    for rows in ([0, 3], [19, 2, 2]):
        assert states.of(rows).numpy().tobytes() == alone.of(rows).numpy().tobytes()


def test_an_adapter_below_the_window_has_other_states_at_its_edge(folder: Path) -> None:
    low = tuned(local_of(), folder, 1)
    local, without = registered(folder, low), registered(folder, low, most_bytes=0)
    for adapter in (BASE, low):
        states, alone = (WindowStates(one, SEQUENCES, 2, reads=STARTS, adapter=adapter) for one in (local, without))
        assert states.of(range(20)).numpy().tobytes() == alone.of(range(20)).numpy().tobytes()


def test_states_from_scoring_can_be_tuned_on(folder: Path) -> None:
    adapter = tuned(local_of(), folder, 2, 3)
    local = registered(folder, adapter)
    local.layer_states(SEQUENCES, [4], reads=STARTS, adapter=adapter)
    edge = WindowStates(local, SEQUENCES, 2, reads=STARTS).of(range(20))
    assert not edge.is_inference()


def test_scores_of_a_probe_begin_at_the_edge_and_say_so(folder: Path) -> None:
    maker = local_of()
    adapter = tuned(maker, folder, 2, 3)
    rng = np.random.default_rng(1)
    probe = Probe(LABELS, rng.normal(size=(2, 2 * WIDTH)).astype(np.float32), np.zeros(2, np.float32), 4)
    wanted = {}
    for most_bytes in (0, 10**6):
        local = registered(folder, adapter, most_bytes=most_bytes)
        ids = {name: local.adapters.add_probe(name, probe, folder) for name in (adapter, BASE)}
        # The first use of an adapter says which edge is worth keeping.
        local.score(PROMPT, ROWS[:1], LABELS, adapter=ids[adapter], fresh=True)
        frozen, found = (local.score(PROMPT, ROWS, LABELS, adapter=ids[name], fresh=True) for name in (BASE, adapter))
        assert frozen.cached == 0 and found.cached == (20 if most_bytes else 0)
        wanted.setdefault("tokens", found.tokens)
        assert found.tokens == wanted["tokens"]
        wanted.setdefault("scores", found.log_probs.tobytes())
        assert found.log_probs.tobytes() == wanted["scores"]


def test_the_least_recently_used_states_are_dropped() -> None:
    import torch

    local = local_of()
    edges = EdgeStates(3 * 8 * WIDTH * 4)
    plans = [plan_pass([[i, i + 1, *range(6)]], prefix=0) for i in range(4)]
    states = [torch.full((8, WIDTH), float(i)) for i in range(4)]
    prefix = local.runner.prefix([])
    for i in range(3):
        edges.put(2, prefix, plans[i], states[i])
    assert edges.get(2, prefix, plans[0]) is states[0]
    edges.put(2, prefix, plans[3], states[3])
    assert [edges.get(2, prefix, plan) is not None for plan in plans] == [True, False, True, True]
    assert edges.get(1, prefix, plans[0]) is None
    edges.put(2, prefix, plans[1], torch.zeros(1000, WIDTH))
    assert edges.get(2, prefix, plans[1]) is None
    assert EdgeStates().worth(2, 4) == () and EdgeStates(1).worth(2, 4) == (2,) and EdgeStates(1).worth(4, 4) == ()
