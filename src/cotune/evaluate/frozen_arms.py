"""The arms of a run by name, the gains between them, and arms that are the same candidate or untuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cotune.files import canonical_json
from cotune.plain import fields

Pair = tuple[str, str]
ARMS = ("seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned")
GAINS: dict[str, tuple[Pair, ...]] = {
    "prompt_given_tuning": (("best_tuned", "seed_tuned"),),
    "tuning": (("seed_tuned", "seed_prompt"),),
    "both": (("best_tuned", "seed_prompt"),),
    "prompt": (("prompt_only", "seed_prompt"),),
    "synergy": (("best_tuned", "seed_tuned"), ("seed_prompt", "best_prompt")),
}
"""Each gain as a sum of differences of arms, first minus second."""
PREVIOUS = "previous"
"""Additional arm of a warm start: the bundle that it started from, unchanged."""
EVERY_ARM = (*ARMS, PREVIOUS)
EVERY_GAIN: dict[str, tuple[Pair, ...]] = {**GAINS, "over_previous": (("best_tuned", PREVIOUS),)}
"""All gains, including that of a warm start."""
ALPHA = 0.05
"""A difference is claimed if its p-value is below this and its interval at the level ``1 - ALPHA`` excludes zero."""

_UNTUNED = ("seed_prompt", "prompt_only", "best_prompt")


def is_frozen(arms: Mapping[str, Any], name: str) -> bool:
    """Whether an arm has the weights of the base model.

    ``seed_tuned`` and ``best_tuned`` also hold frozen candidates if tuning gained nothing or had no room.
    """
    if name in _UNTUNED:
        return True
    arm = fields(arms.get(name))
    adapter = arm.get("adapter_id")
    if adapter == "base":
        return True
    # The earlier bundle has no steps of this run, but its weights may be tuned.
    if name == PREVIOUS or adapter == fields(arms.get(PREVIOUS)).get("adapter_id", ""):
        return False
    # A frozen probe also has an adapter's id.
    steps = arm.get("steps")
    by_probe = arm.get("readout") == "probe" or fields(arm.get("decision")).get("kind") == "probe"
    return by_probe and not isinstance(steps, bool) and steps == 0


def only_winner_tuned(arms: Mapping[str, Any]) -> bool:
    """Whether the winner is tuned in this run and the seed prompt is not.

    Then ``tuning`` compares the seed prompt with itself, and ``synergy`` is what tuning gains with the winner's prompt.
    """
    if previous_ships(arms):
        return False
    return "seed_tuned" in arms and is_frozen(arms, "seed_tuned") and not is_frozen(arms, "best_tuned")


def previous_ships(arms: Mapping[str, Any]) -> bool:
    """Whether the winner of a warm start is the bundle that it started from."""
    old, best = (fields(arms.get(name)) for name in (PREVIOUS, "best_tuned"))
    return bool(old) and all(old.get(part) == best.get(part) for part in ("prompt_id", "adapter_id"))


def same_arms(arms: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Names of the arms in order, with equal candidates (prompt, weights, decision rule) together."""
    groups: dict[str, list[str]] = {}
    for name in arms:
        arm = fields(arms[name])
        key = f"\0{name}"
        if arm.get("prompt_id") and arm.get("adapter_id"):
            with suppress(TypeError, ValueError):
                key = canonical_json([arm.get(part) for part in ("prompt_id", "adapter_id", "decision", "split", "n")])
        groups.setdefault(key, []).append(name)
    return [tuple(names) for names in groups.values()]


def reduced(pairs: Sequence[Pair], same: Mapping[str, str]) -> tuple[Pair, ...]:
    """The same sum of differences without terms that cancel."""
    named: dict[str, str] = {}
    total: Counter[str] = Counter()
    for first, second in pairs:
        for arm, sign in ((first, 1), (second, -1)):
            named.setdefault(same[arm], arm)
            total[same[arm]] += sign
    plus = [named[candidate] for candidate, count in total.items() for _ in range(count)]
    minus = [named[candidate] for candidate, count in total.items() for _ in range(-count)]
    return tuple(zip(plus, minus, strict=True))


def hypothesis(name: str, same: Mapping[str, str]) -> tuple[bool, frozenset[tuple[str, ...]]]:
    """Identity of a gain's hypothesis, regardless of direction: the scale, and the candidates on both sides."""
    pairs = reduced(EVERY_GAIN[name.removesuffix("_log_loss")], same)
    sides = (tuple(sorted(same[pair[side]] for pair in pairs)) for side in (0, 1))
    return name.endswith("_log_loss"), frozenset(sides)


def repeated_gains(same: Mapping[str, str], order: Sequence[str]) -> dict[str, str]:
    """Gains that compare the same candidates as an earlier one, with the name of that one.

    Args:
        same: id of the candidate by arm; missing arms are distinct.
        order: names of the gains in the order of the report. Gains that compare a candidate with itself are ignored.
    """
    same = {name: same.get(name, name) for name in EVERY_ARM}
    first: dict[object, str] = {}
    repeated = {}
    for name in order:
        if (pairs := EVERY_GAIN.get(name)) is None or not reduced(pairs, same):
            continue
        earlier = first.setdefault(hypothesis(name, same), name)
        if earlier != name:
            repeated[name] = earlier
    return repeated
