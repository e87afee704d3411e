"""Compact storage of which rows were answered right, so that later comparisons can be paired."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pack_rows(correct: npt.ArrayLike) -> str:
    """Encode ``[rows]`` of 0 and 1 as the number of rows, a colon, and hex digits.

    Raises:
        ValueError: a value is neither 0 nor 1.
    """
    rows = np.asarray(correct)
    if rows.ndim != 1 or not np.isin(rows, (0, 1)).all():
        raise ValueError("only values of 0 and 1 can be packed")
    return f"{len(rows)}:{np.packbits(rows.astype(np.uint8)).tobytes().hex()}"


def unpack_rows(packed: str) -> npt.NDArray[np.uint8]:
    """Inverse of :func:`pack_rows`.

    Raises:
        ValueError: the text is not in this format.
    """
    count, _, digits = packed.partition(":")
    rows = int(count)
    data = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)
    if rows < 0 or len(data) != (rows + 7) // 8:
        raise ValueError(f"{len(data)} bytes do not hold {rows} rows")
    return np.unpackbits(data, count=rows)
