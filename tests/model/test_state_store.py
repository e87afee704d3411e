from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from cotune.model.engine.state_store import StateStore, layers_of_interest


def states(seed: int = 0, rows: int = 20) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(2, rows, 16)).astype(np.float32)


def test_states_come_back_in_half_precision(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "states")
    assert store.get("one") is None
    wide = states()
    put = store.put("one", wide)
    got = StateStore(tmp_path / "states").get("one")
    assert got is not None and got.dtype == np.float16 and got.tobytes() == put.tobytes()
    # One part in 2,000, or what the smallest half is apart from none.
    np.testing.assert_allclose(got, wide, rtol=2**-11, atol=2**-24)
    assert np.abs(got.astype(np.float32) - wide).max() > 0
    assert store.get("another") is None
    store.put("one", states(1))
    again = store.get("one")
    assert again is not None and not np.array_equal(again, got)


def test_states_of_a_folder_that_may_only_be_read_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path)
    put = store.put("one", states())

    def refused(self: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # root may write to any folder, so that a mode does not tell.
    monkeypatch.setattr(Path, "touch", refused)
    got = store.get("one")
    assert got is not None and got.tobytes() == put.tobytes()


def test_what_half_precision_cannot_hold_stays_finite(tmp_path: Path) -> None:
    wide = np.full((1, 1, 2), [1e30, -1e30], dtype=np.float32)
    assert np.isfinite(StateStore(tmp_path).put("far", wide)).all()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another name", "another type", "flat"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    from safetensors.numpy import save

    store = StateStore(tmp_path)
    half = store.put("one", states())
    path = tmp_path / "one.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-10],
            "empty": b"",
            "text": b"no states here",
            "another name": save({"others": half}),
            "another type": save({"states": half.astype(np.float32)}),
            "flat": save({"states": half[0]}),
        }[damage]
    )
    assert store.get("one") is None
    store.put("one", states())
    assert store.get("one") is not None


def test_what_was_not_read_for_longest_makes_room(tmp_path: Path) -> None:
    size = len((StateStore(tmp_path / "sizing").put("one", states()), (tmp_path / "sizing/one.safetensors").read_bytes())[1])
    store = StateStore(tmp_path / "states", most_bytes=3 * size)
    for age, key in enumerate(("a", "b", "c")):
        store.put(key, states())
        os.utime(tmp_path / "states" / f"{key}.safetensors", (1000 + age, 1000 + age))
    assert store.get("a") is not None  # read just now
    store.put("d", states())
    assert {path.stem for path in (tmp_path / "states").iterdir()} == {"a", "c", "d"}
    assert sum(path.stat().st_size for path in (tmp_path / "states").iterdir()) <= store.most_bytes
    # What is larger than the whole store is handed back and not kept, and drives nothing out.
    assert store.put("huge", states(rows=200)).shape == (2, 200, 16)
    assert store.get("huge") is None and store.get("d") is not None


@pytest.mark.parametrize(
    ("depth", "wanted"), [(30, tuple(range(10, 31, 2))), (1, (1,)), (2, (1, 2)), (12, tuple(range(4, 13)))]
)
def test_layers_of_interest_end_with_the_last(depth: int, wanted: tuple[int, ...]) -> None:
    assert layers_of_interest(depth) == wanted
