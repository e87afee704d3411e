from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from cotune.garbage import collection_paused


@pytest.fixture(autouse=True)
def frozen_again() -> Iterator[None]:
    """Else all libraries would be searched for garbage in the tests that follow."""
    yield
    gc.freeze()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_made_meanwhile_is_not_looked_through(fails: bool) -> None:
    gc.unfreeze()
    searches: list[str] = []
    gc.callbacks.append(lambda phase, info: searches.append(phase))
    try:
        with collection_paused():
            kept = [[i] for i in range(20_000)]
            assert searches == []
            if fails:
                raise KeyError
    except KeyError:
        pass
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)
    assert len(gc.get_objects()) < len(kept)


def test_a_collector_that_rests_goes_on_resting() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
