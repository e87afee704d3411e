"""Data checks before any compute: duplicates, contradictions, empty and long inputs, balance, leaks."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from cotune.errors import counted, shown_names
from cotune.task.example import Example
from cotune.task.near import THRESHOLD, near_pairs
from cotune.task.sealed import SealedTest
from cotune.task.split import duplicate_key, normalised

Severity = Literal["info", "warning"]

LONG_WORDS = 600
FEW_ROWS = 5
IMBALANCE = 20
MOST_COMPARED = 20_000
NARROW = 1.1
"""Factor by which repeated test rows may narrow intervals, from which on that is a warning."""
# Punctuation and blanks, without those that have a meaning; symbols (+, emoji, currency) are not included.
_SEPARATING = frozenset({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Zs"})
_MEANING = frozenset("#%&*@/")
_SHOWN = 5
# Unicode's confusables (UTS 39) that look the same in nearly every font, with the Latin letters that they resemble.
_CYRILLIC = ("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEKMHOPCTYXIJS")
_GREEK = ("ονΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovABEZHIKMNOPTYX")
# Zero-width spaces, soft hyphen, word joiner, direction marks; not the joiners of emoji and scripts, which are visible.
_UNSEEN = "\u00ad\u200b\u200e\u200f\u2060\ufeff"
_SAME_LOOKS = str.maketrans(_CYRILLIC[0] + _GREEK[0], _CYRILLIC[1] + _GREEK[1], _UNSEEN)


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
    """Run every check on the final splits; ``also`` holds findings from elsewhere."""
    removed = removed or Removed()
    rows = (*train, *dev)
    findings = (
        *also,
        *_leaks(train, dev, test, removed),
        *_repeats(train, dev, test),
        *_near(train, dev, test),
        *_contradictions(rows, "label" if labels else "output"),
        *_shapes(rows),
        *(_balance(train, labels) if labels else ()),
    )
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
    return DataChecks((), total).plus(findings)


def _leaks(train: Sequence[Example], dev: Sequence[Example], test: SealedTest, removed: Removed) -> Iterable[Finding]:
    if ids := removed.train_in_test:
        repeated, exactly = removed.test_rows_repeated, removed.test_rows_repeated_exactly
        message = (
            f"{_many(repeated, 'test row', 'also occur')} in train ({exactly:,} of them exactly). "
            f"{counted(len(ids), 'row')} {_were(len(ids))} removed from train; the test is unchanged"
        )
        yield Finding("test_rows_in_train", "warning", message, repeated, ids[:_SHOWN])
    left = (
        ("dev_rows_in_test", removed.dev_in_test, "dev row", "the test", "dev"),
        ("dev_rows_in_prompt", removed.dev_in_prompt, "dev row", "the prompt of the earlier bundle", "dev"),
        ("train_rows_in_dev", removed.train_in_dev, "train row", "dev", "train"),
    )
    for kind, ids, row, place, split in left:
        message = f"{counted(len(ids), row)} also occurred in {place} and {_were(len(ids))} removed from {split}"
        yield from _of_rows(kind, "warning", message, ids)
    in_dev = {example.group for example in dev} - {None}
    for kind, places, score, shared in (
        ("groups_across_test", "train and test", "test", test.groups_shared_with(train)),
        ("groups_across_dev_and_test", "dev and test", "test", test.groups_shared_with(dev)),
        ("groups_across_dev", "train and dev", "dev", len({example.group for example in train} & in_dev)),
    ):
        if shared:
            message = f"{_many(shared, 'group', 'occur')} in both {places}, so memorising raises the {score} score"
            yield Finding(kind, "warning", message, shared)


def _repeats(train: Sequence[Example], dev: Sequence[Example], test: SealedTest) -> Iterable[Finding]:
    for name, rows in (("train", train), ("dev", dev)):
        first: dict[str, str] = {}
        repeats = [example.id for example in rows if first.setdefault(duplicate_key(example), example.id) != example.id]
        yield from _of_rows(
            f"repeats_in_{name}", "info", f"{_many(len(repeats), f'{name} row', 'repeat')} an earlier one", repeats
        )
    counts = test.input_counts()
    if count := test.n - len(counts):
        message = f"{_many(count, 'test row', 'repeat')} the input of an earlier one"
        # Kish's design effect if rows with the same input have the same score; groups are accounted for.
        factor = math.sqrt(sum(rows * rows for rows in counts) / test.n)
        narrow = factor >= NARROW and not test.group_sizes()
        if narrow:
            message += f". Intervals take rows as independent, so they are too narrow by a factor of up to {factor:.1f}"
            message += ". If a column is equal for such rows, name it with data.group"
        yield Finding("repeats_in_test", "warning" if narrow else "info", message, count)


def _near(train: Sequence[Example], dev: Sequence[Example], test: SealedTest) -> Iterable[Finding]:
    rows, border = (*train, *dev), len(train)
    if (count := len(rows) + test.n) > MOST_COMPARED:
        message = f"only exact duplicates were looked for, since there are more than {MOST_COMPARED:,} rows"
        yield Finding("near_duplicates_skipped", "info", message, count)
        return
    found = test.alike(rows, lambda every: [(*pair, THRESHOLD) for pair in near_pairs(every)])
    near_test = found.near_test
    across = list(dict.fromkeys(rows[left].id for left, right, _ in found.pairs if left < border <= right))
    within = list(dict.fromkeys(rows[right].id for _, right, _ in found.pairs if right < border))
    message = f"{_many(len(across), 'train row', 'nearly repeat')} a dev row"
    yield from _of_rows("near_duplicates_train_dev", "warning", message, across)
    message = f"{_many(len(within), 'train row', 'nearly repeat')} another one"
    yield from _of_rows("near_duplicates_in_train", "info", message, within)
    message = (
        f"{counted(len(near_test), 'row')} of train and dev nearly {_verb(len(near_test), 'repeat')} a test row; they stay"
    )
    yield from _of_rows("near_duplicates_with_test", "warning", message, near_test)


def _contradictions(rows: Sequence[Example], noun: str) -> Iterable[Finding]:
    by_key: dict[str, list[Example]] = defaultdict(list)
    for example in rows:
        by_key[duplicate_key(example)].append(example)
    clashing = [same for same in by_key.values() if len({example.output for example in same}) > 1]
    if clashing:
        ids = [example.id for same in clashing for example in same]
        message = (
            f"{_many(len(clashing), 'input', 'have')} more than one {noun} ({counted(len(ids), 'row')} in train and dev); "
            f"keep one {noun} for each"
        )
        yield Finding("contradicting_labels", "warning", message, len(clashing), tuple(ids[:_SHOWN]))


def _shapes(rows: Sequence[Example]) -> Iterable[Finding]:
    def having(ids: Sequence[str]) -> str:
        return f"{counted(len(ids), 'row')} of train and dev {_verb(len(ids), 'have')}"

    gaps = [example.id for example in rows if any(not text.strip() for text in example.fields.values())]
    yield from _of_rows("empty_fields", "info", f"{having(gaps)} some empty and some filled input fields", gaps)
    lengths = {example.id: sum(len(text.split()) for text in example.fields.values()) for example in rows}
    long = [name for name, words in lengths.items() if words > LONG_WORDS]
    longest = max(lengths.values(), default=0)
    message = f"{having(long)} more than {LONG_WORDS} words (the longest has {longest}) and may be truncated"
    yield from _of_rows("long_inputs", "warning", message, long)


def _balance(train: Sequence[Example], labels: Sequence[str]) -> Iterable[Finding]:
    counts = Counter(example.output for example in train)
    if unseen := [label for label in labels if counts[label] == 0]:
        message = f"{_many(len(unseen), 'label', 'have')} no train row: {shown_names(unseen, _SHOWN)}"
        yield Finding("labels_without_rows", "warning", message, len(unseen))
    if few := [label for label in labels if 0 < counts[label] < FEW_ROWS]:
        message = (
            f"{_many(len(few), 'label', 'have')} fewer than {FEW_ROWS} train rows: {shown_names(few, _SHOWN)}; label more rows "
            f"of {'it' if len(few) == 1 else 'them'}, or give them another label"
        )
        ids = tuple(example.id for example in train if example.output in few)
        yield Finding("labels_with_few_rows", "warning", message, len(few), ids[:_SHOWN])
    if len(counts) > 1:
        most, top = counts.most_common(1)[0]
        least, low = min(counts.items(), key=lambda item: (item[1], item[0]))
        if top >= IMBALANCE * low:
            message = (
                f"labels are imbalanced: {top} train rows of {most!r}, {low} of {least!r}; metric=macro_f1 gives each label "
                "the same weight"
            )
            yield Finding("imbalanced_labels", "info", message, round(top / low))
    yield from _alike(labels)


def _alike(labels: Sequence[str]) -> Iterable[Finding]:
    """Groups of labels that look the same to a person: by case, punctuation or similar characters."""
    for kind, key, differ in (
        ("labels_alike", _plain_label, "in case or punctuation alone"),
        (
            "labels_look_alike",
            lambda label: label.translate(_SAME_LOOKS),
            "in letters of different scripts that look the same, or in characters that show nothing",
        ),
    ):
        alike: dict[str, list[str]] = defaultdict(list)
        for label in labels:
            alike[key(label)].append(label)
        if doubles := [same for same in alike.values() if len(same) > 1]:
            looks = {unicodedata.normalize("NFC", label).translate(_SAME_LOOKS) for label in doubles[0]}
            # Labels that look the same are told apart by escapes.
            shown = repr if len(looks) == len(doubles[0]) else ascii
            message = (
                f"some labels differ {differ}: {', '.join(map(shown, doubles[0]))}; if they mean the same, use one spelling"
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


def _of_rows(kind: str, severity: Severity, message: str, ids: Sequence[str]) -> Iterable[Finding]:
    """A finding about rows; none if there are no such rows."""
    if ids:
        yield Finding(kind, severity, message, len(ids), tuple(ids[:_SHOWN]))


def _many(count: int, noun: str, verb: str) -> str:
    """A number of things and what they do, such as ``2 rows repeat``."""
    return f"{counted(count, noun)} {_verb(count, verb)}"


def _verb(count: int, verb: str) -> str:
    return verb if count != 1 else "has" if verb == "have" else f"{verb}s"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
