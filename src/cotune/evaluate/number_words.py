"""Numbers of tests and differences as text."""

from __future__ import annotations


def p_value(p: float) -> str:
    """``p = 0.031``, or ``p < 0.001``; ``p < 0.05`` where rounding would hide that it is below."""
    if p < 0.001:
        return "p < 0.001"
    text = f"p = {p:.3f}"
    return "p < 0.05" if p < 0.05 and text == "p = 0.050" else text


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, without one if it rounds to zero: ``+3.2``, ``-1.0``, ``0.0``."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
