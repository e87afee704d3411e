"""Demonstrations: choosing train rows to show, and adding them to a prompt.

Only train rows are chosen. A row that a prompt shows must not be used to train under that prompt, because the model would learn
to copy its answer: see :func:`not_shown`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.example import Example
from cotune.task.split import duplicate_key, stratum_of
from cotune.task.task import Task

MOST_WORDS = 60
MOST_CHARACTERS = 2000
_MOST, _FEW_LABELS, _HANDFUL, _WRITTEN = 8, 12, 5, 4


def default_count(labels: int) -> int:
    """Default number of rows to show: one per label and at most 8; 5 for more than 12 labels, 4 without labels."""
    if not labels:
        return _WRITTEN
    return min(labels, _MOST) if labels <= _FEW_LABELS else _HANDFUL


def fits(example: Example) -> bool:
    """Whether a row is short enough to be shown: at most :data:`MOST_WORDS` words in all fields together."""
    return sum(len(text.split()) for text in example.fields.values()) <= MOST_WORDS


def showable(rows: Sequence[Example], task: Task) -> list[Example]:
    """The rows that may be shown as demonstrations: short ones whose label has another row, which is no copy.

    A row that is shown is not learnt from, so a label whose only row is shown could not be learnt.
    """
    short = [row for row in rows if fits(row)]
    if not task.labels:
        return short
    different = Counter(label for label, _ in {(row.output, duplicate_key(row)) for row in task.train})
    return [row for row in short if different[row.output] > 1]


def strata(task: Task, rows: Sequence[Example]) -> list[str]:
    """The stratum of each row, over which the choice is balanced: its label, or the same for all rows of generated answers."""
    return list(map(stratum_of(task.output.kind), rows))


def fixed(task: Task, rng: np.random.Generator, *, k: int | None = None) -> tuple[Example, ...]:
    """Draw train rows at random, balanced over the labels, in random order.

    Args:
        k: number of rows; None takes :func:`default_count`.
    """
    count = default_count(len(task.labels)) if k is None else k
    rows = showable(task.train, task)
    order = rng.permutation(len(rows))
    score = np.empty(len(rows))
    score[order] = np.arange(len(rows))
    names = task.labels or ("",)
    ties = {label: int(place) for label, place in zip(names, rng.permutation(len(names)), strict=True)}
    chosen = _balanced(strata(task, rows), count, lambda _: score, ties=ties)
    return tuple(rows[chosen[place]] for place in rng.permutation(len(chosen)))


def diverse(vectors: npt.NDArray[Any], labels: Sequence[str], k: int, rng: np.random.Generator) -> list[int]:
    """Choose rows farthest-first, balanced over the labels: each next row is the farthest from those already chosen.

    Args:
        vectors: embeddings of the rows, ``[n, d]``; distances are Euclidean.
        k: number of rows; fewer are returned if there are fewer.
        rng: draws the first row.

    Returns:
        Indices of the rows, in the order of choice.
    """
    points = np.asarray(vectors, dtype=np.float64)
    nearest = np.full(len(points), np.inf)
    first = rng.random(len(points))

    def badness(last: int | None) -> npt.NDArray[np.float64]:
        if last is None:
            return first
        nearest[:] = np.minimum(nearest, np.linalg.norm(points - points[last], axis=1))
        return -nearest

    return _balanced(labels, k, badness)


def with_demonstrations(prompt: Prompt, examples: Iterable[Example], *, most_characters: int = MOST_CHARACTERS) -> Prompt:
    """A copy of the prompt with these rows as its demonstrations, in order, replacing the previous ones.

    Rows longer than 60 words are skipped, and so are rows that no longer fit into ``most_characters`` of input text.
    """
    shown: dict[tuple[tuple[str, str], ...], Demonstration] = {}
    room = most_characters
    for example in examples:
        fields = tuple((str(name), str(text)) for name, text in example.fields.items())
        length = sum(len(text) for _, text in fields)
        if not fits(example) or length > room or fields in shown:
            continue
        room -= length
        shown[fields] = Demonstration(fields, example.output)
    return prompt.edit(demonstrations=tuple(shown.values()), nearest=0)


def in_order(prompt: Prompt, fields: Sequence[str]) -> Prompt:
    """A copy whose demonstrations have their input fields in the order of ``fields``, in which they are compared with rows."""
    place = {name: number for number, name in enumerate(fields)}
    return prompt.edit(
        demonstrations=tuple(
            replace(shown, fields=tuple(sorted(shown.fields, key=lambda field: place.get(field[0], len(place)))))
            for shown in prompt.demonstrations
        )
    )


def not_shown(prompt: Prompt, examples: Iterable[Example]) -> tuple[Example, ...]:
    """The rows that the prompt does not show as demonstrations, and that may be used to train under it.

    Copies of a row that is shown, also in other letter case or white space, count as shown. With nearest demonstrations these
    are all rows, since no row is shown itself.
    """
    shown = {duplicate_key(Example("", dict(shown.fields), shown.output)) for shown in prompt.always_shown}
    return tuple(row for row in examples if duplicate_key(row) not in shown)


def _balanced(
    labels: Sequence[str], k: int, badness: Callable[[int | None], npt.NDArray[Any]], *, ties: dict[str, int] | None = None
) -> list[int]:
    """Greedy choice: the row with the lowest badness among the labels chosen least often; ``badness`` gets the last choice."""
    left = np.ones(len(labels), dtype=np.bool_)
    names = np.asarray(labels, dtype=object)
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    while len(chosen) < k and left.any():
        bad = badness(chosen[-1] if chosen else None)
        present = sorted(set(names[left]))
        fewest = min(taken[label] for label in present)
        candidates = [label for label in present if taken[label] == fewest]
        if ties is not None:
            candidates = [min(candidates, key=lambda label: ties[label])]
        open_now = left & np.isin(names, candidates)
        position = int(np.argmin(np.where(open_now, bad, np.inf)))
        chosen.append(position)
        left[position] = False
        taken[str(names[position])] += 1
    return chosen
