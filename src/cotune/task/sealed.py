"""The test split, sealed until the arms are frozen."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from cotune.errors import CotuneError
from cotune.files import content_hash
from cotune.task.example import Example, groups_of
from cotune.task.split import duplicate_key

FindPairs = Callable[[Sequence[Example]], Sequence[tuple[int, int, float]]]


@dataclass(frozen=True)
class AlikeRows:
    """Pairs of rows that are alike.

    Attributes:
        pairs: positions of two rows of train or dev, lower first, and how close they are.
        near_test: ids of the rows of train and dev that are like a test row.
        test_rows: how many test rows are like one of them.
        within_test: pairs of test rows that are alike.
    """

    pairs: tuple[tuple[int, int, float], ...]
    near_test: tuple[str, ...]
    test_rows: int
    within_test: int


class SealedTest:
    """Test rows that nothing can read before the end of a run.

    Until :meth:`open` it tells counts, a content hash, lengths, and which *train* rows repeat test rows. There is no
    way to iterate, index, pickle or print the rows.

    Attributes:
        n: number of rows.
        content_hash: equal for tests with the same rows, in whatever order; what the ledger of openings counts by.
    """

    __slots__ = ("__examples", "__keys", "__opened", "content_hash", "n")

    def __init__(self, examples: Sequence[Example]) -> None:
        self.__examples = tuple(examples)
        self.__keys = Counter(duplicate_key(example) for example in self.__examples)
        self.__opened: dict[str, str] | None = None
        self.n = len(self.__examples)
        self.content_hash = rows_hash(self.__examples)

    def __repr__(self) -> str:
        return f"SealedTest(n={self.n}, content_hash={self.content_hash!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedTest) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __len__(self) -> int:
        return self.n

    def sample(self, rows: int, seed: int) -> SealedTest:
        """As many of the rows, drawn at random and as sealed as all; all of them where there are no more.

        Raises:
            CotuneError: the test is open.
        """
        if self.__opened is not None:
            raise CotuneError("a test that is open is not sampled")
        if rows >= self.n:
            return self
        chosen = np.sort(np.random.default_rng([seed, 16]).permutation(self.n)[:rows])
        return SealedTest([self.__examples[i] for i in chosen])

    @property
    def facts(self) -> Mapping[str, float]:
        """Lengths of the inputs, without labels or texts: words (median, longest) and characters in all."""
        texts = [example.text for example in self.__examples]
        words = [len(text.split()) for text in texts] or [0]
        return MappingProxyType(
            {
                "n": self.n,
                "words_median": statistics.median(words),
                "words_most": max(words),
                "characters": sum(map(len, texts)),
            }
        )

    def leaking_train_ids(self, train: Iterable[Example]) -> tuple[str, ...]:
        """Ids of the train rows whose normalised input also stands in the test split, in their order."""
        return tuple(example.id for example in train if duplicate_key(example) in self.__keys)

    def rows_repeated_by(self, train: Iterable[Example], *, exactly: bool = False) -> int:
        """How many test rows have their input, normalised or ``exactly`` as it is, in ``train`` too."""
        if exactly:
            inputs = {tuple(example.fields.values()) for example in train}
            return sum(tuple(example.fields.values()) in inputs for example in self.__examples)
        return sum(self.__keys[key] for key in {duplicate_key(example) for example in train} & set(self.__keys))

    def near_duplicates(self, rows: Sequence[Example]) -> tuple[list[tuple[int, int]], tuple[str, ...]]:
        """Near-duplicates, no exact ones, among ``rows`` and between them and the test.

        Returns:
            Pairs of positions in ``rows``, lower first, and the ids of the rows that nearly repeat a test row.
        """
        from cotune.task.near import near_pairs

        pairs = near_pairs((*rows, *self.__examples))
        near_test = sorted({left for left, right in pairs if left < len(rows) <= right})
        return [pair for pair in pairs if pair[1] < len(rows)], tuple(rows[position].id for position in near_test)

    def alike(self, rows: Sequence[Example], find: FindPairs) -> AlikeRows:
        """Pairs that ``find`` sees among ``rows`` and the test's rows, which stand behind them.

        The test's rows are shown to ``find`` alone, and what it says of them comes out as counts.

        Args:
            rows: of train and dev.
            find: takes rows, gives pairs of positions (lower first) with how close they are.
        """
        pairs = find((*rows, *self.__examples))
        border = len(rows)
        across = [(left, right) for left, right, _ in pairs if left < border <= right]
        return AlikeRows(
            pairs=tuple(pair for pair in pairs if pair[1] < border),
            near_test=tuple(rows[position].id for position in sorted({left for left, _ in across})),
            test_rows=len({right for _, right in across}),
            within_test=sum(left >= border for left, _, _ in pairs),
        )

    def overlapping_rows(self, texts: Iterable[str]) -> int:
        """How many test rows share 13 words in a row with any of ``texts`` (if shorter: stand in one whole)."""
        from cotune.task.overlap import overlapping_test_rows

        return overlapping_test_rows(texts, self.__examples)

    def overlapping_train_ids(self, rows: Iterable[Example]) -> tuple[str, ...]:
        """Ids of the rows that share 13 words in a row with a test row, or hold a shorter one of three words whole."""
        from cotune.task.overlap import rows_overlapping

        return rows_overlapping(rows, self.__examples)

    def count_outputs(self, wanted: Callable[[str], bool]) -> int:
        """How many test rows have an output of which ``wanted`` holds."""
        return sum(wanted(example.output) for example in self.__examples)

    def repeats_within(self) -> int:
        """How many test rows repeat an earlier test row."""
        return sum(count - 1 for count in self.__keys.values())

    def group_sizes(self) -> tuple[int, ...]:
        """How many rows each group has, largest first, a row without a group for itself; empty where there are no groups."""
        groups = groups_of(self.__examples)
        return () if groups is None else tuple(sorted(Counter(groups.tolist()).values(), reverse=True))

    def groups_shared_with(self, train: Iterable[Example]) -> int:
        """How many groups stand both in ``train`` and in the test split."""
        groups = {example.group for example in self.__examples} - {None}
        return len(groups & {example.group for example in train})

    def open(self, frozen: Mapping[str, str]) -> OpenedTest:
        """Break the seal for the frozen arms alone.

        The caller journals ``frozen`` before it asks. A test that is open can be opened again for the same arms only.

        Args:
            frozen: arm name to the content hash of its candidate.

        Raises:
            CotuneError: there are no arms, an arm has no hash, or the test was opened for other arms before.
        """
        if not isinstance(frozen, Mapping) or not frozen:
            raise CotuneError("the test split is opened for frozen arms only, and none was given")
        arms = dict(frozen)
        for name, candidate in arms.items():
            if not (isinstance(name, str) and name and isinstance(candidate, str) and candidate):
                raise CotuneError(f"the arm {name!r} has no candidate hash, so the test split stays sealed")
        if self.__opened is not None and self.__opened != arms:
            raise CotuneError("the test split was opened for other arms before and cannot be opened for new ones")
        self.__opened = arms
        return OpenedTest(self.__examples, arms, self.content_hash)

    def __iter__(self) -> NoReturn:
        self.__refuse()

    def __getitem__(self, index: object) -> NoReturn:
        self.__refuse()

    def __contains__(self, item: object) -> NoReturn:
        self.__refuse()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self.__refuse()

    def __refuse(self) -> NoReturn:
        raise CotuneError("the test split is sealed: its rows are read once, at the end, by the frozen arms")


class OpenedTest:
    """Test rows for the frozen arms.

    Attributes:
        n: number of rows.
        content_hash: that of the sealed test.
        frozen: arm name to candidate hash, as they were frozen.
    """

    __slots__ = ("__examples", "content_hash", "frozen", "n")

    def __init__(self, examples: tuple[Example, ...], frozen: Mapping[str, str], content_hash: str) -> None:
        self.__examples = examples
        self.frozen = MappingProxyType(dict(frozen))
        self.content_hash = content_hash
        self.n = len(examples)

    def __repr__(self) -> str:
        return f"OpenedTest(n={self.n}, content_hash={self.content_hash!r}, arms={list(self.frozen)})"

    def examples_for(self, candidate_hash: str) -> tuple[Example, ...]:
        """The rows, for a candidate that was frozen.

        Raises:
            CotuneError: it was not.
        """
        if candidate_hash not in self.frozen.values():
            raise CotuneError(f"the candidate {candidate_hash!r} is not among the frozen arms and may not see the test")
        return self.__examples


def rows_hash(examples: Iterable[Example]) -> str:
    """Content hash of rows (fields, label, group), whatever their order and ids; 16 hex digits."""
    rows = sorted(content_hash([list(row.fields.items()), row.output, row.group], 64) for row in examples)
    return content_hash(rows)
