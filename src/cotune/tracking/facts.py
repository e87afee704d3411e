"""Metrics and tables for trackers, as flat numbers from a run's journal and summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cotune.config import RunConfig
from cotune.config.run import dotted
from cotune.plain import count_of, ends_of, fields, number
from cotune.tracking.tracker import Estimate, Kind

_NAMES = {"race": "race", "tuned": "tuned", "cycle": "cycle", "verdict": "first_verdict", "better": "bundle"}
"""Kinds of events with a held-out score, and the prefix of their metrics."""
_KINDS: Mapping[Kind, str] = {"arm": "score", "reference": "score", "gain": "value"}
"""Kinds of estimates, and the key of their value in a summary."""
_OF_OTHERS = frozenset({"rewrite", "teach", "judge"})
"""Kinds of events whose tokens belong to other models behind endpoints."""


def metrics_of(event: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an event by name, such as ``cycle/score``; empty for most events.

    All scores and log-losses are held-out ones: cross-fitted, or on dev. NaN and infinite numbers are left out.
    """
    kind, value = str(event.get("kind")), fields(event.get("value"))
    if kind == "train":
        return _numbers("train", {"loss": value.get("loss"), "steps": value.get("steps")})
    if kind not in _NAMES:
        return {}
    if kind == "race":
        value = fields(value.get("best"))
    before = "dev_" if kind == "cycle" else ""
    values = {name: value.get(before + name) for name in ("score", "log_loss")}
    if kind == "verdict":
        values |= dict(zip(("low", "high"), ends_of(value.get("ci")) or (), strict=False))
    return _numbers(_NAMES[kind], values)


def tokens_after(tokens: int, event: Mapping[str, Any]) -> int:
    """Tokens that the run's model had processed after an event, from those before it.

    The end of a cycle records the run's total, which includes tokens that no step records; between two such events the steps
    are added up.
    """
    kind, value = str(event.get("kind")), fields(event.get("value"))
    if kind in _OF_OTHERS:
        return tokens
    event_tokens = count_of(value.get("new_tokens", value.get("tokens")))
    return max(tokens, event_tokens) if kind == "cycle" else tokens + event_tokens


def estimates_of(summary: Mapping[str, Any]) -> list[Estimate]:
    """The numbers of a summary's arms, references and gains."""
    found = []
    for kind, values in _KINDS.items():
        for name, one in fields(summary.get(f"{kind}s")).items():
            estimate = fields(one)
            value, n, loss, p = (number(estimate.get(key)) for key in (values, "n", "log_loss", "p"))
            if value is not None:
                low, high = ends_of(estimate.get("ci")) or (None, None)
                found.append(Estimate(kind, name, value, low, high, None if n is None else int(n), loss, p))
    return found


def flat_estimates(estimates: Sequence[Estimate]) -> dict[str, float]:
    """Estimates as metrics: ``test/best_tuned/score``, ``low``, ``high``, ``log_loss``, and ``gain/both/value``, ``p``."""
    flat: dict[str, float] = {}
    for one in estimates:
        named = {_KINDS[one.kind]: one.value, "low": one.low, "high": one.high, "log_loss": one.log_loss, "p": one.p}
        flat |= _numbers(f"{'gain' if one.kind == 'gain' else 'test'}/{one.name}", named)
    return flat


TABLE = ("kind", "name", "score", "low", "high", "n", "log_loss", "p")
"""Columns of a table of estimates, in the order of the attributes of :class:`cotune.tracking.tracker.Estimate`."""


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every key of the config that is set, in dotted form; lists and a schema as JSON.

    A config never contains keys of endpoints. Names in a schema are the user's; trackers refuse some of them.
    """
    values = config.model_dump(mode="json")
    schema = values["output"].pop("schema", None)
    return {
        key: value if isinstance(value, (str, int, float)) else json.dumps(value, ensure_ascii=False)
        for key, value in {**dotted(values), "output.schema": schema}.items()
        if value is not None
    }


def _numbers(above: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{above}/{name}": finite for name, value in values.items() if (finite := number(value)) is not None}
