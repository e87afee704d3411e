"""What the searched prompt and tuning gained in cotune's runs: by set and size, and pooled over sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from compare.pairs import LOG_LOSS, SCORE, Difference, by_peer, paired, scope_of
from compare.registry import is_ours
from compare.scores import Scored

GAINS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prompt, frozen weights": ("prompt_only", "seed_prompt"),
        "tuning, after the search": ("best_tuned", "prompt_only"),
        "prompt, tuned weights": ("best_tuned", "seed_tuned"),
        "prompt and tuning": ("best_tuned", "seed_prompt"),
    }
)
"""Each gain as a difference of two arms of a run, first minus second."""


def gains(scored: Sequence[Scored], peer: str, scope: str) -> list[Difference]:
    """The gains of cotune's cells with one budget, on score and log-loss, not corrected for their number.

    Args:
        scored: cells of any peers; those of others are ignored.
        peer: cotune with a budget.
        scope: what the cells are, for the result.
    """
    cells = [one for one in scored if one.cell.peer == peer and one.arms]
    found = []
    for gain, (after, before) in GAINS.items():
        used = [one for one in cells if {after, before} <= one.arms.keys() and (before != "seed_tuned" or _seed_tuned(one))]
        sides = [{one.cell.place: one.arms[arm] for one in used} for arm in (before, after)]
        made = (paired(gain, sides[0], sides[1], measure, scope, 0) for measure in (SCORE, LOG_LOSS))
        found += [difference for difference in made if difference is not None]
    return found


def all_gains(scored: Sequence[Scored]) -> dict[str, list[Difference]]:
    """The gains of each budget's cells of label tasks: of each set and size, then of each size pooled over its sets."""
    found: dict[str, list[Difference]] = {}
    labelled = [one for one in scored if one.cell.kind == "label"]
    for peer in (name for name in by_peer(labelled) if is_ours(name)):
        cells = [one for one in labelled if one.cell.peer == peer and one.arms]
        made = []
        for size in dict.fromkeys(one.cell.drawn.size for one in cells):
            sized = [one for one in cells if one.cell.drawn.size == size]
            scopes = list(dict.fromkeys(scope_of(one.cell) for one in sized))
            for scope in scopes:
                made += gains([one for one in sized if scope_of(one.cell) == scope], peer, scope)
            if len(scopes) > 1:
                made += gains(sized, peer, f"all sets, {size}")
        if made:
            found[peer] = made
    return found


def _seed_tuned(one: Scored) -> bool:
    """Whether the run tuned the seed prompt; otherwise its arm repeats the frozen seed prompt."""
    arm = (one.cell.settings.get("arms") or {}).get("seed_tuned") or {}
    return bool(arm.get("steps"))
