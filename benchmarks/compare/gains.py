"""What the searched prompt and tuning gained in cotune's runs: by set and size, and pooled over sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from compare.pairs import LOG_LOSS, SCORE, Difference, by_peer, paired, scope_of
from compare.registry import is_ours
from compare.scores import Scored
from cotune.evaluate.frozen_arms import is_frozen

GAINS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prompt, frozen weights": ("prompt_only", "seed_prompt"),
        "tuning, after the search": ("best_tuned", "prompt_only"),
        "prompt, tuned weights": ("best_tuned", "seed_tuned"),
        "prompt and tuning": ("best_tuned", "seed_prompt"),
    }
)
"""Each gain as a difference of two arms of a run, first minus second."""


def gains(cells: Sequence[Scored], scope: str) -> list[Difference]:
    """The gains of cotune's cells with one budget, on score and log-loss, not corrected for their number.

    Args:
        cells: those with the answers of their arms.
        scope: what the cells are, for the result.
    """
    found = []
    for gain, (after, before) in GAINS.items():
        used = [
            one for one in cells if {after, before} <= one.arms.keys() and not (before == "seed_tuned" and _seed_frozen(one))
        ]
        sides = [{one.cell.place: one.arms[arm] for one in used} for arm in (before, after)]
        made = (paired(gain, sides[0], sides[1], measure, scope, 0) for measure in (SCORE, LOG_LOSS))
        found += [difference for difference in made if difference is not None]
    return found


def all_gains(scored: Sequence[Scored]) -> dict[str, list[Difference]]:
    """The gains of each budget's cells of label tasks: of each set and size, then of each size pooled over its sets."""
    found: dict[str, list[Difference]] = {}
    labelled = [one for one in scored if one.cell.kind == "label" and one.arms]
    for peer, cells in by_peer(one for one in labelled if is_ours(one.cell.peer)).items():
        made = []
        for size in dict.fromkeys(one.cell.drawn.size for one in cells):
            sized = [one for one in cells if one.cell.drawn.size == size]
            scopes = list(dict.fromkeys(scope_of(one.cell) for one in sized))
            for scope in scopes:
                made += gains([one for one in sized if scope_of(one.cell) == scope], scope)
            if len(scopes) > 1:
                made += gains(sized, f"all sets, {size}")
        found[peer] = made
    return found


def _seed_frozen(one: Scored) -> bool:
    """Whether the run did not tune the seed prompt, so that its arm repeats the frozen one."""
    return is_frozen(one.cell.settings["arms"], "seed_tuned")
