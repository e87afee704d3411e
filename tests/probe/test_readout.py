"""An adapter's classification head: what it says, how it lies in a folder, and that scoring goes by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from test_adapters import LABELS, PROMPT, ROWS, saved, scores

from cotune.errors import CotuneError, InputError
from cotune.model.adapter_folder import adapter_content_id, adapter_files, bare_content_id
from cotune.model.score_cache import ScoreCache
from cotune.probe.readout import PROBE, Probe, load_probe
from tiny import tiny_local

WORDS = {"decision": {"kind": "raw", "bias": []}, "score": 0.5}


def head_of(labels: tuple[str, ...], width: int, seed: int = 0) -> Probe:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(len(labels), width)), rng.normal(size=len(labels))
    return Probe(labels, weight.astype(np.float32), bias.astype(np.float32), WORDS)


@given(st.permutations(range(4)), st.integers(0, 5))
def test_the_labels_come_in_the_order_that_is_asked_for(order: list[int], seed: int) -> None:
    head = head_of(LABELS, 8)
    states = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    wanted = log_softmax(states @ head.weight.T + head.bias, axis=1)
    found = head.log_probs(states, [LABELS[i] for i in order])
    np.testing.assert_allclose(found, wanted[:, order], atol=1e-5)
    for others in (LABELS[:3], (*LABELS[:3], "somebody"), (*LABELS, "more")):
        with pytest.raises(CotuneError, match="other labels"):
            head.log_probs(states, others)


# One architecture that the shared-prefix engine fits, one with a sliding window, one that runs on plain batches.
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss"])
def test_an_adapter_with_a_head_is_scored_by_it(tmp_path: Path, kind: Any) -> None:
    local = tiny_local(kind, cache=ScoreCache(tmp_path / "scores.sqlite"))
    plain = saved(local, tmp_path)
    width = local.model.config.get_text_config().hidden_size
    head = head_of(LABELS, width)
    headed = local.adapters.add_probe(plain, head, tmp_path)
    before = scores(local, plain)
    sequences = [row.prompt_ids for row in local.renderer.render(PROMPT, ROWS, LABELS)]
    wanted = head.log_probs(local.last_states(sequences, adapter=plain), LABELS)
    assert np.abs(wanted - before).max() > 0.1
    for _ in range(2):
        # The second time from the cache.
        np.testing.assert_allclose(scores(local, headed), wanted, atol=1e-4)
    best = local.score(PROMPT, ROWS, LABELS, adapter=headed, top=1).log_probs
    np.testing.assert_allclose(best, wanted, atol=1e-4)
    turned = local.score(PROMPT, ROWS, LABELS[::-1], adapter=headed).log_probs
    np.testing.assert_allclose(turned, wanted[:, ::-1], atol=1e-4)
    assert np.array_equal(scores(local, plain), before), "the same weights without it answer as they did"
    assert local.adapters.without_probe(headed) == plain and local.adapters.probe(plain) is None
    # A row costs its own text: of the labels' words none runs.
    assert local.score(PROMPT, ROWS, LABELS, adapter=headed, fresh=True).tokens <= sum(map(len, sequences))


def test_what_is_saved_is_an_adapter_of_its_own_and_read_back_as_it_was(tmp_path: Path) -> None:
    local = tiny_local()
    plain = saved(local, tmp_path)
    head = head_of(LABELS, local.model.config.hidden_size)
    headed = local.adapters.add_probe(plain, head, tmp_path / "more")
    folder = tmp_path / "more" / headed
    assert headed != plain and adapter_content_id(folder) == headed and bare_content_id(folder) == plain
    assert PROBE in adapter_files(folder) and PROBE not in adapter_files(tmp_path / plain)
    other = tiny_local()
    assert other.adapters.register(folder) == headed
    np.testing.assert_array_equal(scores(other, headed), scores(local, headed))
    np.testing.assert_array_equal(scores(other, plain), scores(local, plain))
    read = load_probe(folder)
    assert read is not None and read.labels == head.labels and read.words == WORDS
    assert np.array_equal(read.weight, head.weight) and read.to_bytes() == head.to_bytes()
    # Put on anew, the head before is not asked for.
    again = local.adapters.add_probe(headed, head_of(LABELS, local.model.config.hidden_size, 1), tmp_path / "again")
    assert local.adapters.without_probe(again) == plain and again != headed


def test_a_damaged_head_is_refused_by_name(tmp_path: Path) -> None:
    head = head_of(LABELS, 8)
    nan = Probe(LABELS, np.full((4, 8), np.nan, dtype=np.float32), head.bias, WORDS)
    short = Probe(LABELS[:3], head.weight, head.bias, WORDS)
    twice = Probe(("a", "a", "b", "c"), head.weight, head.bias, WORDS)
    for data in (head.to_bytes()[:-4], b"", b"{}", nan.to_bytes(), short.to_bytes(), twice.to_bytes()):
        (tmp_path / PROBE).write_bytes(data)
        with pytest.raises(InputError, match="classification head") as caught:
            load_probe(tmp_path)
        assert PROBE in str(caught.value)
    (tmp_path / PROBE).unlink()
    assert load_probe(tmp_path) is None
    assert json.dumps(WORDS)
