"""The verdict of a warm start: the new candidate against the earlier bundle, overall and on old and new labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cotune.errors import counted
from cotune.evaluate.attribution import Gain, corrected_gain
from cotune.evaluate.frozen_arms import ALPHA
from cotune.evaluate.stats.paired import paired_intervals, paired_test
from cotune.evaluate.words import NO_DIFFERENCE, change_text, uncertainty_text, unclear


@dataclass(frozen=True, slots=True)
class Part:
    """A comparison by shares of right rows, whatever the task's metric.

    Attributes:
        new: share of rows that the new candidate gets right.
        old: share of rows that the earlier bundle gets right.
        gain: ``new`` minus ``old``, with intervals and p-values that are corrected for reading several parts.
    """

    n: int
    new: float
    old: float
    gain: Gain

    def as_dict(self) -> dict[str, Any]:
        gain = {**self.gain.as_dict(), "value": round(self.gain.value, 6)}
        shares = {"n": self.n, "new": round(self.new, 6), "old": round(self.old, 6)}
        return shares | {name: gain[name] for name in ("value", "ci", "p", "ci_single", "p_single", "test")}


def compare_parts(
    new: npt.ArrayLike, old: npt.ArrayLike, known: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, seed: int = 0
) -> dict[str, Part]:
    """Compare two candidates on all rows, on rows with labels that the old one knows, and on the others.

    Args:
        new: whether the new candidate is right on each row, shape (rows,).
        old: the same for the earlier bundle.
        known: whether the earlier bundle knows the row's label, shape (rows,).
        groups: group id of each row, if rows depend on each other.
        seed: seed of the resampling of grouped rows.

    Returns:
        The non-empty parts by name: ``all``, ``old_labels``, ``new_labels``. If all rows are of one kind, only ``all``.
    """
    one, two, mask = (np.asarray(values, dtype=np.float64) for values in (new, old, known))
    choices = {"all": np.ones(len(one), dtype=bool), "old_labels": mask == 1, "new_labels": mask == 0}
    if mask.all() or not mask.any():
        choices = {"all": choices["all"]}
    parts: dict[str, Part] = {}
    for name, rows in choices.items():
        after, before = one[rows], two[rows]
        grouped = None if groups is None else np.asarray(groups)[rows]
        p, test = paired_test(before, after, seed=seed, groups=grouped)
        interval_at = paired_intervals(before, after, seed=seed, groups=grouped)
        now, then = float(after.mean()), float(before.mean())
        parts[name] = Part(len(after), now, then, corrected_gain(now - then, p, interval_at, len(choices), test))
    return parts


Keep = Literal["new", "old"]


def which_to_keep(gain: Gain, parts: Mapping[str, Part], *, ships_old: bool, only_old: bool = False) -> Keep:
    """The new bundle if the test shows a gain, otherwise the one that dev preferred, unless the test shows forgetting.

    Arguments as for :func:`keep_sentence`.
    """
    if ships_old:
        return "old"
    if gain.significant():
        return "new" if gain.value > 0 else "old"
    part = _by_label(parts, only_old).get("old_labels")
    return "old" if part is not None and part.gain.value < 0 and part.gain.p < ALPHA else "new"


def _by_label(parts: Mapping[str, Part], only_old: bool) -> Mapping[str, Part]:
    """The parts; if the test has rows of old labels only, all rows count as those."""
    return {**parts, "old_labels": parts["all"]} if only_old else parts


def keep_sentence(
    gain: Gain,
    parts: Mapping[str, Part],
    *,
    ships_old: bool,
    new_labels: Sequence[str],
    unseen: bool,
    only_old: bool = False,
) -> str:
    """A sentence on which bundle to keep, why, and what was forgotten.

    Args:
        gain: the new candidate's gain over the earlier bundle on the task's metric, which is between 0 and 1.
        parts: from :func:`compare_parts`.
        ships_old: whether nothing was better than the earlier bundle on dev, so that it ships.
        new_labels: labels that the earlier bundle does not know.
        unseen: whether some old labels had no dev rows.
        only_old: whether the task has new labels while all test rows have old ones.
    """
    if ships_old:
        return "Keep the old bundle: nothing was better on dev, so it ships again."
    clear = gain.significant()
    keep = which_to_keep(gain, parts, ships_old=False, only_old=only_old)
    parts = _by_label(parts, only_old)
    text = (
        f"Keep the {keep} bundle: over the old one the new one {change_text(gain.value)} "
        f"({uncertainty_text(gain.ci.as_list(), gain.p)})"
    )
    if not clear and keep == "old":
        text += f": over all rows {unclear(gain)}, but it forgot"
    elif not clear:
        more = f", and only the new one knows {counted(len(new_labels), 'new label')}" if new_labels else ""
        text += f": {unclear(gain)}, but dev preferred the new one{more}"
    sentences = [text]
    for name, about in (("old_labels", "of the old labels"), ("new_labels", "of new labels")):
        if (part := parts.get(name)) is None:
            continue
        sentence = (
            f"On the {counted(part.n, 'row')} {about} it {change_text(part.gain.value)} "
            f"({uncertainty_text(part.gain.ci.as_list(), part.gain.p)})"
        )
        if part.gain.p >= ALPHA:
            sentence += f": {NO_DIFFERENCE}"
        elif name == "old_labels" and part.gain.value < 0:
            sentence += ": it forgot some of what the old one knew"
        sentences.append(sentence)
    if only_old:
        sentences.append("The test has no rows of new labels, so it does not show how well they were learnt")
    if new_labels and "old_labels" not in parts:
        sentences.append("The test has no rows of old labels, so it does not show what was forgotten")
    elif unseen:
        sentences.append("Some old labels had no dev rows: replay old rows to guard against forgetting them")
    return ". ".join(sentences) + "."
