"""Runs of labels that workers may do, and what has to be the same whoever does them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cycle_runs import Ended, journal_of, summary_of, without_times

if TYPE_CHECKING:
    from conftest import Bench


def run(bench: Bench, out: Path, *more: str, budget: str = "220ktok", **named: Any) -> Ended:
    # Short passes, so that a request is cut into several; a first cycle and a later one.
    settings = ("tune.readout=auto", "search.max_cycles=2", "engine.batch_tokens=300", "limit.train=48")
    return bench.run(out, *settings, *more, budget=budget, **named)


def account(folder: Path) -> dict[str, Any]:
    """Who did how much in a finished run."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["cost"]["workers"]
    return found


def told(folder: Path) -> tuple[Any, Any]:
    """Summary and journal of a run, but for its times and for who worked."""
    summary, events = summary_of(folder), without_times(journal_of(folder))
    summary["cost"].pop("workers", None)
    for event in events:
        if isinstance(event["value"], dict):
            event["value"].pop("by", None)
    return summary, events


def same_as(alone: Path, out: Path) -> None:
    """A run ended as one in one process did, and left nothing else."""
    assert told(out) == told(alone)
    for name in ("prompt.json", "decision.json", "adapter/probe.safetensors"):
        assert (out / "best" / name).read_bytes() == (alone / "best" / name).read_bytes()
    assert not (out / "jobs").exists() and not (out / "checkpoints").exists()
