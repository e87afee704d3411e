from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.evaluate.packing import pack_rows, unpack_rows


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), max_size=70))
def test_rows_come_back_as_they_were(rows: list[int]) -> None:
    packed = pack_rows(rows)
    assert unpack_rows(packed).tolist() == rows
    assert len(packed) <= 2 * (len(rows) // 8 + 1) + 4


@pytest.mark.parametrize("wrong", ["", "x", "9:ff", "3:zz", "-1:", "8:ffff"])
def test_what_is_no_such_text_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        unpack_rows(wrong)


def test_only_right_and_wrong_can_be_packed() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        pack_rows(np.array([0.0, 0.5]))
