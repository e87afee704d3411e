"""Names of a run's arms for people: arms with the same prompt and weights together, and only tuned ones called tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.evaluate.frozen_arms import is_frozen, same_arms
from cotune.report.terminal.plain import number, one_line

ARM_NAMES = {
    "seed_prompt": "seed prompt",
    "prompt_only": "prompt only",
    "best_prompt": "best prompt",
    "seed_tuned": "seed tuned",
    "best_tuned": "best tuned",
    "previous": "old bundle",
}
"""Names of the arms for people."""

_MEANINGS = {
    "seed_prompt": "first prompt, base model",
    "prompt_only": "best prompt untuned, base model",
    "best_prompt": "winner's prompt, base model",
    "seed_tuned": "first prompt, tuned model",
    "best_tuned": "winner's prompt, tuned model",
    "previous": "the bundle this run started from",
}
_FROZEN_NAMES = {"seed_tuned": "seed, frozen", "best_tuned": "best, frozen"}
_FROZEN_MEANINGS = {
    "seed_tuned": "first prompt, base model: not tuned",
    "best_tuned": "winner's prompt, base model: not tuned",
}
_LEADING = ("previous", "seed_prompt", "best_prompt", "prompt_only", "seed_tuned", "best_tuned")
"""Order in which the members of a group give it its name."""


@dataclass(frozen=True)
class ArmGroup:
    """Arms with the same candidate: prompt, weights and decision rule are equal.

    Attributes:
        names: names of the arms in a summary.
        title: name of the group for people.
        meaning: its prompt and weights in words; empty for an unknown arm.
        frozen: whether it uses the base model's weights.
    """

    names: tuple[str, ...]
    title: str
    meaning: str
    frozen: bool

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the group's other arms."""
        return tuple(arm_name(name) for name in self.names if arm_name(name) != self.title)


def arm_name(name: str) -> str:
    return ARM_NAMES.get(name, one_line(name, 24))


def arm_groups(arms: Mapping[str, Any]) -> list[ArmGroup]:
    """The groups of arms, in the order of display."""
    ordered = [*(name for name in ARM_NAMES if name in arms), *(name for name in arms if name not in ARM_NAMES)]
    return [_group(arms, names) for names in same_arms({name: arms[name] for name in ordered})]


def group_of(arms: Mapping[str, Any], name: str) -> ArmGroup:
    """The group of an arm; for an unknown arm a group with its name alone."""
    match = next((group for group in arm_groups(arms) if name in group.names), None)
    return match or ArmGroup((name,), arm_name(name), _MEANINGS.get(name, ""), False)


def why_frozen(summary: Mapping[str, Any], group: ArmGroup) -> str:
    """Why arms that are called tuned in the summary are not tuned, in a few words."""
    return "frozen" if number(summary.get("prompts_tuned")) is None else f"frozen ({why_untuned(summary, group)})"


def why_untuned(summary: Mapping[str, Any], group: ArmGroup) -> str:
    """The same reason as the end of a sentence."""
    if "best_tuned" not in group.names and number(summary.get("prompts_tuned")):
        # The seed prompt's tuning is an arm in itself, whether it paid off or not.
        return "it was not tuned"
    tried = number(summary.get("prompts_tuned"))
    return "no tuning step paid off" if tried else "nothing was tuned" if tried == 0 else "no tuned weights were kept"


def _group(arms: Mapping[str, Any], names: tuple[str, ...]) -> ArmGroup:
    lead = next((name for name in _LEADING if name in names), names[0])
    frozen = is_frozen(arms, lead)
    title = _FROZEN_NAMES.get(lead, arm_name(lead)) if frozen else arm_name(lead)
    meaning = _FROZEN_MEANINGS.get(lead, _MEANINGS.get(lead, "")) if frozen else _MEANINGS.get(lead, "")
    if frozen and lead not in _FROZEN_MEANINGS and set(names) & set(_FROZEN_MEANINGS):
        meaning += ": not tuned"
    return ArmGroup(names, title, meaning, frozen)
