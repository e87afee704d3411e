"""The test split, sealed until the arms are frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from cotune.errors import CotuneError
from cotune.files import content_hash
from cotune.task.example import Example, groups_of
from cotune.task.overlap import overlapping_test_rows, rows_overlapping
from cotune.task.split import duplicate_key

FindPairs = Callable[[Sequence[Example]], Sequence[tuple[int, int, float]]]


@dataclass(frozen=True)
class AlikeRows:
    """Pairs of similar rows.

    Attributes:
        pairs: indices of two rows of train or dev, lower first, and their closeness.
        near_test: ids of train and dev rows that are similar to a test row.
        test_rows: number of test rows that are similar to one of them.
        within_test: number of pairs of similar test rows.
    """

    pairs: tuple[tuple[int, int, float], ...]
    near_test: tuple[str, ...]
    test_rows: int
    within_test: int


class SealedTest:
    """Test rows that cannot be read before the end of a run.

    Until :meth:`open` it only returns counts, a content hash, lengths, and which *train* rows repeat test rows. The rows cannot
    be iterated, indexed, pickled or printed.

    Attributes:
        n: number of rows.
        content_hash: equal for tests with the same rows in any order.
        order_hash: equal for tests with the same rows and ids in the same order.
        given_hash: content hash of the test that the rows were sampled from; the key in the ledger of openings.

    Args:
        given_hash: content hash of the test that they were sampled from; None if they are the whole test.
    """

    __slots__ = ("__examples", "__keys", "__opened", "content_hash", "given_hash", "n", "order_hash")

    def __init__(self, examples: Sequence[Example], given_hash: str | None = None) -> None:
        self.__examples = tuple(examples)
        self.__keys = Counter(duplicate_key(example) for example in self.__examples)
        self.__opened: dict[str, str] | None = None
        self.n = len(self.__examples)
        self.content_hash = rows_hash(self.__examples)
        self.order_hash = order_hash(self.__examples)
        self.given_hash = given_hash or self.content_hash

    def sealed_again(self) -> SealedTest:
        """The same test for another run of this process, which opens it for other arms.

        The ledger of openings counts both.
        """
        return SealedTest(self.__examples, self.given_hash)

    def __repr__(self) -> str:
        return f"SealedTest(n={self.n}, content_hash={self.content_hash!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedTest) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __len__(self) -> int:
        return self.n

    def sample(self, rows: int, seed: int) -> SealedTest:
        """A random sample of the rows, also sealed; all of them if there are no more.

        Raises:
            CotuneError: the test is open.
        """
        if self.__opened is not None:
            raise CotuneError("an open test cannot be sampled")
        if rows >= self.n:
            return self
        chosen = np.sort(np.random.default_rng([seed, 16]).permutation(self.n)[:rows])
        return SealedTest([self.__examples[i] for i in chosen], self.given_hash)

    @property
    def input_hashes(self) -> tuple[str, ...]:
        """Hashes of the rows' normalised inputs, which tell whether a row that one has is among them, and nothing else."""
        return tuple(self.__keys)

    def leaking_train_ids(self, train: Iterable[Example]) -> tuple[str, ...]:
        """Ids of the train rows whose normalised input is also in the test split, in order."""
        return tuple(example.id for example in train if duplicate_key(example) in self.__keys)

    def rows_repeated_by(self, train: Iterable[Example], *, exactly: bool = False) -> int:
        """Number of test rows whose input, normalised or ``exactly``, is also in ``train``."""
        if exactly:
            inputs = {tuple(example.fields.values()) for example in train}
            return sum(tuple(example.fields.values()) in inputs for example in self.__examples)
        return sum(self.__keys[key] for key in {duplicate_key(example) for example in train} & set(self.__keys))

    def alike(self, rows: Sequence[Example], find: FindPairs) -> AlikeRows:
        """Pairs that ``find`` returns for ``rows`` followed by the test's rows.

        Only ``find`` sees the test's rows; results about them are returned as counts.
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
        """Number of test rows that share 13 consecutive words with any of ``texts`` (a shorter row as a whole)."""
        return overlapping_test_rows(texts, self.__examples)

    def overlapping_train_ids(self, rows: Iterable[Example]) -> tuple[str, ...]:
        """Ids of the rows that share 13 consecutive words with a test row, or contain a shorter one as a whole."""
        return rows_overlapping(rows, self.__examples)

    def count_outputs(self, wanted: Callable[[str], bool]) -> int:
        """Number of test rows whose output satisfies ``wanted``."""
        return sum(wanted(example.output) for example in self.__examples)

    def longest_output(self, lengths: Callable[[list[str]], Sequence[int]]) -> int:
        """Largest length of a test row's output, such as its number of tokens."""
        return max(lengths([example.output for example in self.__examples]), default=0)

    def input_counts(self) -> tuple[int, ...]:
        """Number of test rows of each different input, after normalisation."""
        return tuple(self.__keys.values())

    def group_sizes(self) -> tuple[int, ...]:
        """Sizes of the groups, largest first, with a row without a group as its own; empty without groups."""
        groups = groups_of(self.__examples)
        return () if groups is None else tuple(sorted(Counter(groups.tolist()).values(), reverse=True))

    def groups_shared_with(self, train: Iterable[Example]) -> int:
        """Number of groups that are both in ``train`` and in the test split."""
        groups = {example.group for example in self.__examples} - {None}
        return len(groups & {example.group for example in train})

    def ids_in_its_groups(self, rows: Iterable[Example]) -> tuple[str, ...]:
        """Ids of the rows whose group is also in the test split, in order."""
        groups = {example.group for example in self.__examples} - {None}
        return tuple(row.id for row in rows if row.group in groups)

    def open(self, frozen: Mapping[str, str]) -> OpenedTest:
        """Open the test for the frozen arms only.

        The caller journals ``frozen`` first. An open test can only be opened again for the same arms.

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
        return OpenedTest(self.__examples, arms)

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
        frozen: arm name to candidate hash.
    """

    __slots__ = ("__examples", "frozen")

    def __init__(self, examples: tuple[Example, ...], frozen: Mapping[str, str]) -> None:
        self.__examples = examples
        self.frozen = MappingProxyType(dict(frozen))

    def __repr__(self) -> str:
        return f"OpenedTest(n={len(self.__examples)}, arms={list(self.frozen)})"

    def examples_for(self, candidate_hash: str) -> tuple[Example, ...]:
        """The rows, for a frozen candidate.

        Raises:
            CotuneError: the candidate was not frozen.
        """
        if candidate_hash not in self.frozen.values():
            raise CotuneError(f"the candidate {candidate_hash!r} is not among the frozen arms and may not see the test")
        return self.__examples


def rows_hash(examples: Iterable[Example]) -> str:
    """Content hash of rows (fields, label, group), independent of order and ids; 16 hex digits."""
    rows = sorted(content_hash([list(row.fields.items()), row.output, row.group], 64) for row in examples)
    return content_hash(rows)


def order_hash(examples: Iterable[Example]) -> str:
    """Content hash of rows with their ids, in order; 16 hex digits."""
    return content_hash([[row.id, duplicate_key(row), row.output, row.group] for row in examples])
