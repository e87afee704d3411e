"""Rehearsal: training again on rows of an earlier run, so that the model does not forget them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from cotune.errors import counted
from cotune.task.checks import Finding
from cotune.task.sealed import SealedTest
from cotune.task.split import DEV_MOST, Rows, Stratum, cut, duplicate_key

ROLE = "replay"
"""Prefix of the ids of replayed rows."""


@dataclass(frozen=True)
class Replay:
    """The chosen old rows.

    Attributes:
        train: rows to learn from again.
        dev: rows added to dev.
        counts: counts for the data checks.
        findings: findings for the data checks.
    """

    train: Rows = ()
    dev: Rows = ()
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()


def choose_replay(
    rows: Rows,
    train: Rows,
    dev: Rows,
    test: SealedTest,
    labels: tuple[str, ...],
    *,
    stratum: Stratum,
    shown: frozenset[str],
    ratio: float,
    generator: np.random.Generator,
) -> Replay:
    """Select old rows to replay, balance them against the new rows, and hold out a part for dev.

    A label gets at most ``ratio`` times as many rows as the labels of the new rows have on average. This balances new and old
    labels; without the bound a large old file would outweigh the new rows. Of other outputs there are at most ``ratio`` times
    as many old rows as new ones. The dev part is stratified and as large a share, of at most 300 rows, as dev is of the new
    rows: without it choices on dev would ignore forgetting. Old rows never enter the test. An old row whose group is in train
    stays in train; one whose group is in dev or in the test is removed.

    Args:
        rows: the old rows, with distinct ids.
        train: new training rows.
        dev: new dev rows.
        test: the new test, sealed.
        labels: the task's labels; rows with other labels are removed. Empty for other outputs.
        stratum: function to the stratum that is balanced: the label, or a constant for other outputs.
        shown: :func:`duplicate_key` of rows whose answers the earlier bundle's prompt shows; they stay out of dev.
        ratio: maximum ratio of old rows to new ones, as described above.
    """
    asked = tuple(row for row in rows if row.output in set(labels)) if labels else rows
    in_test = tuple(dict.fromkeys((*test.leaking_train_ids(asked), *test.ids_in_its_groups(asked))))
    new = {duplicate_key(row) for row in (*train, *dev)}
    groups = {row.group for row in dev} - {None}
    in_new = tuple(row.id for row in asked if duplicate_key(row) in new or row.group in groups)
    gone = {*in_test, *in_new}
    left = [row for row in asked if row.id not in gone]
    fresh = Counter(map(stratum, (*train, *dev)))
    most = max(1, math.ceil(ratio * len((*train, *dev)) / max(1, len(fresh))))
    taken: Counter[str] = Counter()
    kept: set[str] = set()
    for place in generator.permutation(len(left)):
        row = left[int(place)]
        if taken[stratum(row)] < most:
            taken[stratum(row)] += 1
            kept.add(row.id)
    chosen = tuple(row for row in left if row.id in kept)
    size = min(DEV_MOST, round(len(dev) / len((*train, *dev)) * len(chosen)))
    in_train = {row.group for row in train} - {None}
    bound = shown | {duplicate_key(row) for row in chosen if row.group in in_train}
    stays, held = cut(chosen, size, generator, stratum, bound)
    repeated = test.rows_repeated_by(asked)
    counts = {
        "replay_read": len(rows),
        "replay_train": len(stays),
        "replay_dev": len(held),
        "replay_rows_in_test": len(in_test),
        "replay_rows_repeat_new_ones": len({*in_new} - {*in_test}),
        "replay_rows_without_label": len(rows) - len(asked),
        "test_rows_in_replay": repeated,
    }
    if not repeated:
        return Replay(stays, held, counts)
    message = (
        f"{counted(repeated, 'test row')} {'is' if repeated == 1 else 'are'} also among the old rows: the bundle that this run "
        "starts from may have been trained on them, which makes its scores too good"
    )
    return Replay(stays, held, counts, (Finding("test_rows_in_replay", "warning", message, repeated, in_test[:5]),))
