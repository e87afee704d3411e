"""A probe as a read-out: what it says, how it lies in a folder, and that what is damaged is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from scipy.special import log_softmax

from cotune.errors import CotuneError, InputError
from cotune.probe.readout import PROBE, Probe, load_probe, probed_id

LABELS = ("person", "place", "card arrival", "Zürich 東京")


def probe_of(labels: tuple[str, ...] = LABELS, width: int = 8, seed: int = 0, layer: int = 3) -> Probe:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(len(labels), width)), rng.normal(size=len(labels))
    return Probe(labels, weight.astype(np.float32), bias.astype(np.float32), layer)


@given(st.permutations(range(4)), st.integers(0, 5))
def test_the_labels_come_in_the_order_that_is_asked_for(order: list[int], seed: int) -> None:
    probe = probe_of()
    states = np.random.default_rng(seed).normal(size=(3, 8)).astype(np.float32)
    wanted = log_softmax(states @ probe.weight.T + probe.bias, axis=1)
    found = probe.log_probs(states, [LABELS[i] for i in order])
    np.testing.assert_allclose(found, wanted[:, order], atol=1e-5)


@pytest.mark.parametrize("others", [LABELS[:3], (*LABELS[:3], "somebody"), (*LABELS, "more"), (*LABELS[:3], LABELS[0])])
def test_other_labels_are_refused(others: tuple[str, ...]) -> None:
    with pytest.raises(CotuneError, match="other labels"):
        probe_of().log_probs(np.zeros((1, 8), dtype=np.float32), others)


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert load_probe(tmp_path) is None
    probe = probe_of()
    (tmp_path / PROBE).write_bytes(probe.to_bytes())
    read = load_probe(tmp_path)
    assert read is not None
    assert (read.labels, read.layer, read.width) == (LABELS, 3, 4)
    assert np.array_equal(read.weight, probe.weight) and np.array_equal(read.bias, probe.bias)
    assert read.to_bytes() == probe.to_bytes() == probe_of().to_bytes()


def test_its_id_tells_apart_whatever_answers_otherwise() -> None:
    probe = probe_of()
    others = [
        replace(probe, layer=4),
        replace(probe, labels=LABELS[::-1]),
        replace(probe, bias=probe.bias + np.float32(1e-6)),
    ]
    ids = {probed_id("base", one.to_bytes()) for one in (probe, *others)}
    assert len(ids) == 4 and probed_id("another", probe.to_bytes()) not in ids


def bytes_of(**changes: Any) -> bytes:
    return replace(probe_of(), **changes).to_bytes()


_WEIGHT, _BIAS = probe_of().weight, probe_of().bias
DAMAGED: dict[str, Callable[[], bytes]] = {
    "cut short": lambda: probe_of().to_bytes()[:-4],
    "empty": lambda: b"",
    "no safetensors": lambda: b"{}",
    "no metadata": lambda: save({"weight": _WEIGHT, "bias": _BIAS}),
    "metadata is no JSON": lambda: save({"weight": _WEIGHT, "bias": _BIAS}, metadata={"cotune": "{"}),
    "metadata is a list": lambda: save({"weight": _WEIGHT, "bias": _BIAS}, metadata={"cotune": "[]"}),
    "metadata without bottom": lambda: save({"weight": _WEIGHT}, metadata={"cotune": "[" * 10**5}),
    "no bias": lambda: save({"weight": _WEIGHT}, metadata={"cotune": '{"labels": ["a", "b"], "layer": 1}'}),
    "not a number": lambda: bytes_of(weight=np.full((4, 8), np.nan, dtype=np.float32)),
    "infinite": lambda: bytes_of(bias=np.full(4, np.inf, dtype=np.float32)),
    "too few labels": lambda: bytes_of(labels=LABELS[:3]),
    "a label twice": lambda: bytes_of(labels=("a", "a", "b", "c")),
    "one label": lambda: bytes_of(labels=("a",), weight=_WEIGHT[:1], bias=_BIAS[:1]),
    "weights in a row": lambda: bytes_of(weight=_WEIGHT[0]),
    "half precision": lambda: bytes_of(weight=_WEIGHT.astype(np.float16)),
    "layer 0": lambda: bytes_of(layer=0),
    "layer is text": lambda: bytes_of(layer="3"),
    "layer is true": lambda: bytes_of(layer=True),
    "far too deep": lambda: bytes_of(layer=10**9),
    "an odd width": lambda: bytes_of(weight=_WEIGHT[:, :7].copy()),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_probe_is_refused_by_name(tmp_path: Path, how: str) -> None:
    (tmp_path / PROBE).write_bytes(DAMAGED[how]())
    with pytest.raises(InputError, match="the probe cannot be read") as caught:
        load_probe(tmp_path)
    assert str(tmp_path / PROBE) in str(caught.value)
