"""How long a scoring pass is: as memory allows, never beyond two bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.model.engine.settings import EngineSettings, batch_tokens, weight_bytes

MB, GB = 10**6, 10**9
BYTES = st.integers(0, 10**13)


def test_much_memory_gives_long_passes_and_little_short_ones() -> None:
    small = 270 * MB
    assert batch_tokens(16 * GB, small) == batch_tokens(1620 * MB, small) == 2048
    assert batch_tokens(1080 * MB, small) == 1024 and batch_tokens(810 * MB, small) == 512
    assert batch_tokens(600 * MB, small) == batch_tokens(0, small) == 256
    # Sixteen GB are little for a model of seven.
    assert batch_tokens(16 * GB, 7 * GB) == 256 and batch_tokens(28 * GB, 7 * GB) == 1024
    assert batch_tokens(MB, 0) == 2048


@given(BYTES, BYTES, BYTES, BYTES)
def test_more_memory_never_shortens_a_pass_nor_does_a_larger_model_lengthen_it(
    free: int, more: int, weights: int, larger: int
) -> None:
    tokens = batch_tokens(free, weights)
    assert 256 <= tokens <= 2048
    assert batch_tokens(free + more, weights) >= tokens >= batch_tokens(free, weights + 1 + larger) or weights == 0


def test_weights_are_counted_over_all_files(tmp_path: Path) -> None:
    for name, size in (("model-1.safetensors", 300), ("model-2.safetensors", 40), ("tokenizer.json", 5000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(tmp_path) == 340


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", 5), ("dtype", "float8"), ("threads", "two"), ("threads", 0), ("batch_tokens", None), ("probe", [])],
)
def test_settings_that_a_journal_cannot_mean_are_told(name: str, value: object) -> None:
    step = {"device": "cpu", "dtype": "float32", "threads": None, "batch_tokens": 64, "probe": {"memory_bytes": 5}}
    assert EngineSettings.recorded(step, 100) == EngineSettings("cpu", "float32", None, 64, 100, 5)
    with pytest.raises(InputError, match="no valid engine settings"):
        EngineSettings.recorded(step | {name: value}, 100)
