"""Data checks before any compute: duplicates, contradictions, empty and long inputs, balance, leaks."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from cotune.errors import counted, shown_names
from cotune.task.example import Example
from cotune.task.sealed import SealedTest
from cotune.task.split import duplicate_key, normalised
from cotune.task.values.confusable import looks

Severity = Literal["info", "warning"]

LONG_WORDS = 600
FEW_ROWS = 5
IMBALANCE = 20
MOST_COMPARED = 20_000
# Punctuation and blanks, without those that have a meaning; symbols (+, emoji, currency) are not included.
_SEPARATING = frozenset({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Zs"})
_MEANING = frozenset("#%&*@/")
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One finding of the data checks.

    Attributes:
        kind: stable name of the check, such as ``test_rows_in_train``.
        severity: ``warning`` if it can change the meaning of the scores, otherwise ``info``.
        message: one sentence.
        count: number of rows (or labels, or groups) concerned.
        examples: ids of a few train or dev rows; never of test rows.
    """

    kind: str
    severity: Severity
    message: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Removed:
    """Ids of rows that were removed because they repeat rows of a later split.

    ``dev_in_prompt`` are those whose answers the prompt of an earlier bundle shows. ``test_rows_repeated`` counts the test rows
    that were in train, ``test_rows_repeated_exactly`` those that were there letter for letter.
    """

    train_in_test: tuple[str, ...] = ()
    dev_in_test: tuple[str, ...] = ()
    train_in_dev: tuple[str, ...] = ()
    test_rows_repeated: int = 0
    test_rows_repeated_exactly: int = 0
    dev_in_prompt: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataChecks:
    """Results of the data checks, warnings first.

    Attributes:
        findings: one entry per check that found something.
        counts: rows read, kept and removed, by name.
    """

    findings: tuple[Finding, ...] = ()
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, kind: str) -> Finding:
        """The finding of a kind. Raises KeyError if there is none."""
        for finding in self.findings:
            if finding.kind == kind:
                return finding
        raise KeyError(kind)

    def __contains__(self, kind: str) -> bool:
        return any(finding.kind == kind for finding in self.findings)

    def plus(self, findings: Iterable[Finding], **counts: int) -> DataChecks:
        """A copy with further findings and counts."""
        every = sorted((*self.findings, *findings), key=lambda finding: finding.severity != "warning")
        return DataChecks(tuple(every), MappingProxyType({**self.counts, **counts}))

    def to_json(self) -> dict[str, Any]:
        """A JSON object for the journal and the report."""
        return {"counts": dict(self.counts), "findings": [asdict(finding) for finding in self.findings]}


def check_data(
    train: Sequence[Example],
    dev: Sequence[Example],
    test: SealedTest,
    labels: Sequence[str],
    *,
    removed: Removed | None = None,
    counts: Mapping[str, int] | None = None,
    also: Sequence[Finding] = (),
) -> DataChecks:
    """Run every check on the final splits.

    Args:
        train: training rows.
        dev: dev rows.
        test: the sealed test, which returns only counts and train ids.
        labels: the task's labels; empty for other outputs.
        removed: rows that were already removed.
        counts: further counts to include.
        also: findings from elsewhere.
    """
    removed = removed or Removed()
    rows = (*train, *dev)
    findings = [
        *also,
        *_leaks(train, dev, test, removed),
        *_repeats(train, dev, test),
        *_near(train, dev, test),
        *_contradictions(rows, "label" if labels else "output"),
        *_shapes(rows),
        *(_balance(train, labels) if labels else ()),
    ]
    findings.sort(key=lambda finding: finding.severity != "warning")
    total = {
        "train": len(train),
        "dev": len(dev),
        "test": test.n,
        "train_rows_in_test": len(removed.train_in_test),
        "dev_rows_in_test": len(removed.dev_in_test),
        "dev_rows_in_prompt": len(removed.dev_in_prompt),
        "train_rows_in_dev": len(removed.train_in_dev),
        "test_rows_in_train": removed.test_rows_repeated,
        "test_rows_in_train_exactly": removed.test_rows_repeated_exactly,
        **(counts or {}),
    }
    return DataChecks(tuple(findings), MappingProxyType(total))


def _leaks(train: Sequence[Example], dev: Sequence[Example], test: SealedTest, removed: Removed) -> Iterable[Finding]:
    if removed.train_in_test:
        yield Finding(
            "test_rows_in_train",
            "warning",
            f"{counted(removed.test_rows_repeated, 'test row')} also {_verb(removed.test_rows_repeated, 'occur')} in train "
            f"({removed.test_rows_repeated_exactly:,} of them exactly). "
            f"{counted(len(removed.train_in_test), 'row')} {'was' if len(removed.train_in_test) == 1 else 'were'} removed from "
            "train; the test is unchanged",
            removed.test_rows_repeated,
            removed.train_in_test[:_SHOWN],
        )
    left = (
        ("dev_rows_in_test", removed.dev_in_test, "dev row", "the test", "dev"),
        ("dev_rows_in_prompt", removed.dev_in_prompt, "dev row", "the prompt of the earlier bundle", "dev"),
        ("train_rows_in_dev", removed.train_in_dev, "train row", "dev", "train"),
    )
    for kind, ids, row, place, split in left:
        if ids:
            was = "was" if len(ids) == 1 else "were"
            message = f"{counted(len(ids), row)} also occurred in {place} and {was} removed from {split}"
            yield Finding(kind, "warning", message, len(ids), ids[:_SHOWN])
    in_dev = {example.group for example in dev} - {None}
    for kind, places, score, shared in (
        ("groups_across_test", "train and test", "test", test.groups_shared_with(train)),
        ("groups_across_dev_and_test", "dev and test", "test", test.groups_shared_with(dev)),
        ("groups_across_dev", "train and dev", "dev", len({example.group for example in train} & in_dev)),
    ):
        if shared:
            message = f"{counted(shared, 'group')} {_verb(shared, 'occur')} in both {places}"
            yield Finding(kind, "warning", f"{message}, so memorising raises the {score} score", shared)


def _repeats(train: Sequence[Example], dev: Sequence[Example], test: SealedTest) -> Iterable[Finding]:
    for name, rows in (("train", train), ("dev", dev)):
        seen: set[str] = set()
        repeats = []
        for example in rows:
            key = duplicate_key(example)
            if key in seen:
                repeats.append(example.id)
            seen.add(key)
        if repeats:
            yield Finding(
                f"repeats_in_{name}",
                "info",
                f"{counted(len(repeats), f'{name} row')} {_verb(len(repeats), 'repeat')} an earlier one",
                len(repeats),
                tuple(repeats[:_SHOWN]),
            )
    if count := test.repeats_within():
        yield Finding("repeats_in_test", "info", f"{counted(count, 'test row')} {_verb(count, 'repeat')} an earlier one", count)


def _near(train: Sequence[Example], dev: Sequence[Example], test: SealedTest) -> Iterable[Finding]:
    rows = (*train, *dev)
    if len(rows) + test.n > MOST_COMPARED:
        yield Finding(
            "near_duplicates_skipped",
            "info",
            f"near-duplicates are looked for in up to {MOST_COMPARED:,} rows; here are more, so only exact ones were",
            len(rows) + test.n,
        )
        return
    pairs, near_test = test.near_duplicates(rows)
    border = len(train)
    across = [pair for pair in pairs if pair[0] < border <= pair[1]]
    within = [pair for pair in pairs if pair[1] < border]
    if across:
        ids = dict.fromkeys(rows[left].id for left, _ in across)
        yield Finding(
            "near_duplicates_train_dev",
            "warning",
            f"{counted(len(ids), 'train row')} nearly {_verb(len(ids), 'repeat')} a dev row",
            len(ids),
            tuple(ids)[:_SHOWN],
        )
    if within:
        ids = dict.fromkeys(rows[right].id for _, right in within)
        yield Finding(
            "near_duplicates_in_train",
            "info",
            f"{counted(len(ids), 'train row')} nearly {_verb(len(ids), 'repeat')} another one",
            len(ids),
            tuple(ids)[:_SHOWN],
        )
    if near_test:
        yield Finding(
            "near_duplicates_with_test",
            "warning",
            f"{counted(len(near_test), 'row')} of train and dev nearly {_verb(len(near_test), 'repeat')} a test row; they stay",
            len(near_test),
            near_test[:_SHOWN],
        )


def _contradictions(rows: Sequence[Example], said: str) -> Iterable[Finding]:
    by_key: dict[str, list[Example]] = defaultdict(list)
    for example in rows:
        by_key[duplicate_key(example)].append(example)
    clashing = [same for same in by_key.values() if len({example.output for example in same}) > 1]
    if clashing:
        ids = [example.id for same in clashing for example in same]
        yield Finding(
            "contradicting_labels",
            "warning",
            f"{counted(len(clashing), 'input')} {_verb(len(clashing), 'have')} "
            f"more than one {said} ({counted(len(ids), 'row')} in train and dev)",
            len(clashing),
            tuple(ids[:_SHOWN]),
        )


def _shapes(rows: Sequence[Example]) -> Iterable[Finding]:
    if gaps := [example.id for example in rows if any(not text.strip() for text in example.fields.values())]:
        yield Finding(
            "empty_fields",
            "info",
            f"{counted(len(gaps), 'row')} of train and dev {_verb(len(gaps), 'have')} "
            f"an empty input field beside others that are filled",
            len(gaps),
            tuple(gaps[:_SHOWN]),
        )
    lengths = {example.id: sum(len(text.split()) for text in example.fields.values()) for example in rows}
    if long := [name for name, words in lengths.items() if words > LONG_WORDS]:
        yield Finding(
            "long_inputs",
            "warning",
            f"{counted(len(long), 'row')} of train and dev {_verb(len(long), 'have')} "
            f"more than {LONG_WORDS} words (the longest has "
            f"{max(lengths.values())}) and may be truncated",
            len(long),
            tuple(long[:_SHOWN]),
        )


def _balance(train: Sequence[Example], labels: Sequence[str]) -> Iterable[Finding]:
    counts = Counter(example.output for example in train)
    if unseen := [label for label in labels if counts[label] == 0]:
        yield Finding(
            "labels_without_rows",
            "warning",
            f"{counted(len(unseen), 'label')} {_verb(len(unseen), 'have')} no train row: {shown_names(unseen, _SHOWN)}",
            len(unseen),
        )
    if few := [label for label in labels if 0 < counts[label] < FEW_ROWS]:
        yield Finding(
            "labels_with_few_rows",
            "warning",
            f"{counted(len(few), 'label')} {_verb(len(few), 'have')} fewer than {FEW_ROWS} train rows: "
            f"{shown_names(few, _SHOWN)}; label more rows of {'it' if len(few) == 1 else 'them'}, or give them another label",
            len(few),
            tuple(example.id for example in train if example.output in few)[:_SHOWN],
        )
    if counts:
        (most, top), low = counts.most_common(1)[0], min(counts.values())
        if top >= IMBALANCE * low and len(counts) > 1:
            least = min(counts, key=lambda label: (counts[label], label))
            yield Finding(
                "imbalanced_labels",
                "info",
                f"labels are imbalanced: {top} train rows of {most!r}, {low} of {least!r}; metric=macro_f1 gives each label "
                "the same weight",
                round(top / low),
            )
    yield from _alike(labels)


def _alike(labels: Sequence[str]) -> Iterable[Finding]:
    """Groups of labels that look the same to a person: by case, punctuation or similar characters."""
    for kind, key, differ in (
        ("labels_alike", _plain_label, "in case or punctuation alone"),
        ("labels_look_alike", looks, "in letters of different scripts that look the same, or in characters that show nothing"),
    ):
        alike: dict[str, list[str]] = defaultdict(list)
        for label in labels:
            alike[key(label)].append(label)
        if doubles := [same for same in alike.values() if len(same) > 1]:
            message = (
                f"some labels differ {differ}: {', '.join(map(repr, doubles[0]))}; if they mean the same, use one spelling"
            )
            yield Finding(kind, "warning", message, len(doubles))


def _plain_label(label: str) -> str:
    """A label without case and without separators.

    Meaningful characters stay: symbols (C++, 👍), a dash at an end (-1, B-), points and dashes between digits (1.5).
    """
    text = normalised(label).replace("_", " ")
    kept = []
    for i, character in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        category = unicodedata.category(character)
        separates = category in _SEPARATING and character not in _MEANING and not (before.isdigit() and after.isdigit())
        if category == "Pd":
            separates &= before.isalnum() and after.isalnum()
        kept.append("" if separates else character)
    return "".join(kept) or text


def _verb(count: int, verb: str) -> str:
    """The verb form for a count."""
    return verb if count != 1 else "has" if verb == "have" else f"{verb}s"
