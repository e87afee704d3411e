"""A sentence about earlier openings of a test."""

from __future__ import annotations


def openings_sentence(times: int | None) -> str:
    """A warning about a test that was opened ``times`` before (None if unknown); empty if it never was."""
    if times is None:
        return "The number of earlier openings of this test is unknown, since the ledger cannot be read."
    if times <= 0:
        return ""
    return f"This test was opened {'once' if times == 1 else f'{times} times'} before: interpret its p-values with care."
