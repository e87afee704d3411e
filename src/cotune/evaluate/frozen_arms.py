"""Whether an arm answers with the base model's weights, whatever it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNTUNED = ("seed_prompt", "prompt_only", "best_prompt")
_PREVIOUS = "previous"


def is_frozen(arms: Mapping[str, Any], name: str) -> bool:
    """Whether the weights of a run's arm are the base model's.

    The arms ``seed_tuned`` and ``best_tuned`` are named after what a run tries: where no tuning gained, or there was no room
    for it, a frozen candidate stands there too.

    Args:
        arms: as a summary holds them.
        name: of one of them.
    """
    if name in _UNTUNED:
        return True
    arm = _fields(arms.get(name))
    adapter = arm.get("adapter_id")
    if adapter == "base":
        return True
    # The bundle that a run started from counts no steps of this run, and its weights may be tuned ones.
    if name == _PREVIOUS or adapter == _fields(arms.get(_PREVIOUS)).get("adapter_id", ""):
        return False
    # A frozen probe has an adapter's id too, since it is saved as one.
    steps = arm.get("steps")
    return arm.get("readout") == "probe" and not isinstance(steps, bool) and steps == 0


def _fields(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
