"""Paired differences between cotune and each peer: by set and size, and pooled, with Holm's correction over the peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compare.cells import Cell, Place
from compare.registry import is_ours
from compare.scores import SUMMED, Floats, Scored
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.side_by_side import gain_between
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.paired import paired_difference

SCORE, LOG_LOSS = "score", "log_loss"
_OF_KIND = {"label": "", "json": ", JSON", "number": ", numbers"}


@dataclass(frozen=True)
class Difference:
    """What cotune has more than a peer, on the same test rows after the same labelled rows.

    Attributes:
        scope: set and size, or what was pooled.
        peer: whom it is compared with.
        measure: ``score`` (more is better; accuracy, F1 over all values for JSON, or explained variance for numbers) or
            ``log_loss`` (less is better).
        value: cotune's minus the peer's.
        ci: 95% interval of it.
        p: of no difference.
        p_holm: the same, corrected over the peers of the scope and the measure.
        cells: pairs of cells.
        rows: answers compared.
    """

    scope: str
    peer: str
    measure: str
    value: float
    ci: Interval
    p: float
    p_holm: float
    cells: int
    rows: int


def scope_of(cell: Cell) -> str:
    """``trec6, 64``."""
    return f"{cell.set}, {cell.drawn.size}"


def by_peer(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    """The cells of each peer."""
    found: dict[str, list[Scored]] = {}
    for one in scored:
        found.setdefault(one.cell.peer, []).append(one)
    return found


def differences(scored: Iterable[Scored], reference: str, scope: str, *, seed: int = 0) -> list[Difference]:
    """All peers against ``reference`` over the cells that both have; corrected over the peers by measure.

    cotune with other budgets is no peer: its differences are told uncorrected and are not counted in the correction.

    Draws are tested on the same rows, and rows of a set are not alike, so the answers to one test row count as one group,
    whichever draw they learnt from: the interval is over test rows. How much another draw of labelled rows would move it is
    in it only as far as the draws that were made differ.

    Args:
        scored: the cells of the scope; several sets and sizes are pooled, each answer counting the same.
        reference: the peer that the others are compared with.
        scope: what they are, for the result.
        seed: of the resampling.
    """
    by_place = {peer: {one.cell.place: one for one in part} for peer, part in by_peer(scored).items()}
    ours = by_place.pop(reference, {})
    found: list[Difference] = []
    for measure in (SCORE, LOG_LOSS):
        made = [
            difference
            for peer, theirs in by_place.items()
            if (difference := paired(peer, theirs, ours, measure, scope, seed)) is not None
        ]
        others = [one for one in made if not is_ours(one.peer)]
        corrected = dict(zip((one.peer for one in others), holm([one.p for one in others]), strict=True))
        found += [replace(one, p_holm=corrected.get(one.peer, one.p)) for one in made]
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that can be read together at one significance level.

    Source: Holm (Scandinavian Journal of Statistics 1979).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def paired(
    peer: str,
    theirs: Mapping[Place, Scored],
    ours: Mapping[Place, Scored],
    measure: str,
    scope: str,
    seed: int,
) -> Difference | None:
    """The difference of two sides over the places that both have, ``ours`` minus ``theirs``; None if they share none."""
    places = [
        place
        for place in sorted(theirs.keys() & ours.keys())
        if _values(theirs[place], measure) is not None and _values(ours[place], measure) is not None
    ]
    if not places:
        return None
    before, after = (_arm([side[place] for place in places], measure) for side in (theirs, ours))
    groups = [f"{place[0]}:{row}" for place in places for row in range(len(ours[place].worth))]
    # Where each row stands once there are no groups, and the exact tests apply.
    grouped = groups if len(set(groups)) < len(groups) else None
    if before.counts is not None:
        gain = gain_between(before, after, SUMMED[ours[places[0]].cell.kind], groups=grouped, seed=seed)
        value, interval, p = gain.value, gain.ci_single, gain.p_single
    else:
        interval, p = paired_difference(before.score, after.score, seed=seed, groups=grouped)
        value = float((after.score - before.score).mean())
    return Difference(scope, peer, measure, value, interval, p, p, len(places), len(groups))


def _arm(part: Sequence[Scored], measure: str) -> ArmScores:
    """The cells of a peer as one arm; with counts for a score that comes from sums."""
    values = np.concatenate([given for one in part if (given := _values(one, measure)) is not None])
    counts = [one.counts for one in part if one.counts is not None]
    # As two candidates, whatever they answer.
    return ArmScores(
        values, counts=np.concatenate(counts) if counts and measure == SCORE else None, candidate=part[0].cell.peer
    )


def _values(scored: Scored, measure: str) -> Floats | None:
    return scored.worth if measure == SCORE else scored.losses


def pooled(scored: Sequence[Scored], reference: str) -> list[Difference]:
    """Differences over all sets: of each size that several sets have, and of everything; each kind of answers apart."""
    found: list[Difference] = []
    for kind in sorted({one.cell.kind for one in scored}):
        part = [one for one in scored if one.cell.kind == kind]
        sizes = sorted({(one.cell.per_class, one.cell.rows) for one in part})
        for per_class, rows in sizes:
            sized = [one for one in part if (one.cell.per_class, one.cell.rows) == (per_class, rows)]
            if len({one.cell.set for one in sized}) > 1 and len(sizes) > 1:
                told = f"all sets, {sized[0].cell.drawn.size} rows"
                found += differences(sized, reference, told + _OF_KIND[kind])
        if len({one.cell.set for one in part}) > 1 or len(sizes) > 1:
            found += differences(part, reference, "all sets and sizes" + _OF_KIND[kind])
    return found
