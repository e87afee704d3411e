"""A sentence on how often a test was opened before."""

from __future__ import annotations


def openings_sentence(times: int | None) -> str:
    """A warning about a test that was opened ``times`` before (None if unknown); empty if it never was."""
    if times is None:
        return "How often this test was opened before is not known, since the ledger of openings cannot be read."
    if times <= 0:
        return ""
    return f"This test was opened {'once' if times == 1 else f'{times} times'} before: read its p-values with care."
