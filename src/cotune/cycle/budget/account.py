"""The account of a run: tokens by purpose, money, and requests to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPENT = ("tokens_scored", "tokens_written", "tokens_trained", "tokens_embedded")


class Account:
    """Adds up the recorded costs of steps.

    Attributes:
        counts: tokens scored, written, trained, embedded, and saved by the shared prefix.
        truncated: maximum, over requests, of the number of rows whose text was shortened.
        unmatched: maximum, over requests, of the number of rows whose answer named no label.
        dollars: cost of the answers of all endpoints.
        judged: rows of the judge, rows that it refused, tokens and dollars.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys((*_SPENT, "tokens_saved_by_prefix"), 0)
        self.truncated = 0
        self.unmatched = 0
        self.dollars = 0.0
        self.judged: dict[str, float] = {"rows": 0, "refused": 0, "tokens": 0, "dollars": 0.0}

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return sum(self.counts[name] for name in _SPENT)

    def charge(self, value: Mapping[str, Any], kind: str) -> None:
        """Charge a step that asked the model; ``kind`` is the entry of :attr:`counts` for its tokens."""
        self.counts[kind] += int(value["tokens"])
        self.counts["tokens_saved_by_prefix"] += int(value["saved"])
        self.truncated = max(self.truncated, int(value["truncated"]))
        self.unmatched = max(self.unmatched, int(value.get("unmatched", 0)))
        self.pay(value)
        self.saw_judging(value.get("judged", {}))

    def pay(self, value: Mapping[str, Any]) -> None:
        """Charge the ``dollars`` of a recorded step, if any."""
        self.dollars += float(value.get("dollars", 0.0))

    def saw_judging(self, value: Mapping[str, Any]) -> None:
        """Count the judge's work in a recorded step."""
        self.judged = {name: count + value.get(name, 0) for name, count in self.judged.items()}
