"""The budget of a run: time, tokens, or money for answers."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import Literal

from cotune.errors import BudgetError

_UNITS: dict[Literal["time", "tokens", "money"], dict[str, float]] = {
    "time": {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
    "tokens": {"tok": 1.0, "ktok": 1e3, "mtok": 1e6, "gtok": 1e9},
    "money": {"usd": 1.0},
}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount and its unit.

    Attributes:
        kind: ``time`` (seconds), ``tokens`` (processed in scoring, writing, training and embedding alike) or ``money``
            (US dollars, for answers of an endpoint at the config's prices).
        amount: amount in that unit.
    """

    kind: Literal["time", "tokens", "money"]
    amount: float

    @property
    def unit(self) -> str:
        """The unit's name in messages."""
        return {"time": "s", "tokens": "tokens", "money": "USD"}[self.kind]

    def told(self, amount: float) -> str:
        """Format an amount with the unit, for messages: ``12 s``, ``3.4 s``, ``1,200 tokens``."""
        digits = {"time": 0 if amount >= 9.95 else 1, "tokens": 0, "money": 4}[self.kind]
        return f"{amount:,.{digits}f} {self.unit}"

    def raised(self, more: float) -> str:
        """The budget plus ``more``, rounded up, as written in a command, such as ``35m``."""
        needed = self.amount + max(0.0, more)
        if self.kind == "time":
            minutes = needed / 60
            step = 1 if minutes <= 10 else 5
            return f"{math.ceil(minutes / step) * step}m"
        digit = 10.0 ** (math.floor(math.log10(needed)) - 1)
        rounded = math.ceil(needed / digit) * digit
        if self.kind == "money":
            return f"{rounded:.12f}".rstrip("0").rstrip(".") + "usd"
        return f"{rounded / 1e6:g}Mtok" if rounded >= 1e6 else f"{rounded / 1e3:g}ktok"

    def __str__(self) -> str:
        if self.kind == "money":
            return f"{self.amount:g} USD"
        if self.kind == "time":
            return f"{self.amount / 60:g} min" if self.amount >= 60 else f"{self.amount:g} s"
        return f"{self.amount / 1e6:g} M tokens" if self.amount >= 1e6 else f"{self.amount / 1e3:g} k tokens"


def parse_budget(text: str) -> Budget:
    """Parse ``90s``, ``10m``, ``1h``, ``300ktok``, ``2Mtok`` or ``2usd``.

    Raises:
        BudgetError: the text has another form, or the amount is zero.
    """
    match = _FORM.fullmatch(text)
    unit = match[2].lower() if match else ""
    kind = next((kind for kind, units in _UNITS.items() if unit in units), None)
    if match is None or kind is None:
        raise BudgetError(
            f"{text!r} is not a budget", where="budget", hint="Write for example 90s, 10m, 1h, 300ktok, 2Mtok or 2usd."
        )
    amount = float(match[1]) * _UNITS[kind][unit]
    if not 0 < amount < 1e18:
        raise BudgetError(
            f"the budget {text[:40]!r} is {'too large' if amount else 'zero'}",
            where="budget",
            hint="Write for example 60s or 50ktok.",
        )
    return Budget(kind, amount)


class Clock:
    """Active seconds of a run: those of earlier sessions and of this one, without the time between.

    Args:
        before: active seconds of earlier sessions.
        started: ``time.monotonic()`` from which this session counts; None means now.
    """

    def __init__(self, before: float = 0.0, started: float | None = None) -> None:
        self._before, self._start = before, time.monotonic() if started is None else started

    def __call__(self) -> float:
        """Active seconds so far."""
        return self._before + time.monotonic() - self._start
