"""What a run may spend: time on the clock, or tokens processed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal

from cotune.errors import BudgetError

_TIME = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_TOKENS = {"tok": 1.0, "ktok": 1e3, "mtok": 1e6, "gtok": 1e9}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount and its unit.

    Attributes:
        kind: ``time`` (seconds) or ``tokens`` (processed in scoring, training and embedding alike).
        amount: in that unit.
    """

    kind: Literal["time", "tokens"]
    amount: float

    def __str__(self) -> str:
        if self.kind == "time":
            return f"{self.amount / 60:g} min" if self.amount >= 60 else f"{self.amount:g} s"
        return f"{self.amount / 1e6:g} M tokens" if self.amount >= 1e6 else f"{self.amount / 1e3:g} k tokens"


def parse_budget(text: str) -> Budget:
    """Read ``90s``, ``10m``, ``1h``, ``300ktok`` or ``2Mtok``.

    Raises:
        BudgetError: the text has another form, or the amount is zero.
    """
    match = _FORM.fullmatch(text)
    unit = match[2].lower() if match else ""
    if match is None or (unit not in _TIME and unit not in _TOKENS):
        raise BudgetError(f"{text!r} is no budget", where="budget", mend="Write for example 90s, 10m, 1h, 300ktok or 2Mtok.")
    amount = float(match[1]) * (_TIME.get(unit) or _TOKENS[unit])
    if not 0 < amount < 1e18:
        raise BudgetError(
            f"the budget {text[:40]!r} is {'beyond all bounds' if amount else 'nothing'}",
            where="budget",
            mend="Give at least 60s or 50ktok.",
        )
    return Budget("time" if unit in _TIME else "tokens", amount)


class Clock:
    """Active seconds of a run: those of earlier sessions and of this one; the time in between does not count.

    Args:
        before: active seconds of earlier sessions.
        started: ``time.monotonic()`` from which this session counts; None means now.
    """

    def __init__(self, before: float = 0.0, started: float | None = None) -> None:
        self._before, self._start = before, time.monotonic() if started is None else started

    def __call__(self) -> float:
        """Active seconds so far."""
        return self._before + time.monotonic() - self._start
