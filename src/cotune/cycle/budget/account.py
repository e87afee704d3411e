"""What a run has spent so far: tokens by what they were run for, money, and what a judge was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPENT = ("tokens_scored", "tokens_written", "tokens_trained", "tokens_embedded")


class Account:
    """Adds up what steps record that they cost.

    Attributes:
        counts: tokens scored, written, trained, embedded, and saved by the shared prefix.
        truncated: most rows of one request whose text was shortened.
        unmatched: most rows of one request whose answer named no label.
        dollars: what answers of all endpoints have cost.
        judged: what the judge did: rows, tokens, dollars.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys((*_SPENT, "tokens_saved_by_prefix"), 0)
        self.truncated = 0
        self.unmatched = 0
        self.dollars = 0.0
        self.judged: dict[str, float] = {"rows": 0, "tokens": 0, "dollars": 0.0}

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return sum(self.counts[name] for name in _SPENT)

    def charge(self, value: Mapping[str, Any], kind: str) -> None:
        """Charge a step that asked the model; ``kind`` says which of :attr:`counts` its tokens belong to."""
        self.counts[kind] += int(value["tokens"])
        self.counts["tokens_saved_by_prefix"] += int(value["saved"])
        self.truncated = max(self.truncated, int(value["truncated"]))
        self.unmatched = max(self.unmatched, int(value.get("unmatched", 0)))
        self.pay(value)
        self.saw_judging(value.get("judged", {}))

    def pay(self, value: Mapping[str, Any]) -> None:
        """Charge the ``dollars`` that a recorded step cost, where it cost any."""
        self.dollars += float(value.get("dollars", 0.0))

    def saw_judging(self, value: Mapping[str, Any]) -> None:
        """Count what a recorded step had the judge do."""
        self.judged = {name: count + value.get(name, 0) for name, count in self.judged.items()}
