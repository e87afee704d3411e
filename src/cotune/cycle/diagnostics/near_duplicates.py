"""Rows that say the same in other words: the data check that needs the model.

Embedding thousands of rows by the model would be too expensive for a check. So pairs are preselected by their words
(:class:`cotune.embed.StaticEmbedder`), and only the closest few dozen are embedded and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cotune.cycle.budget.spending import untimed
from cotune.cycle.context import RunContext
from cotune.cycle.journal import attempt
from cotune.embed import EmbedSettings, Standardizer, StaticEmbedder, TextEmbedder, closest_pairs
from cotune.embed.text import ONE_WORD_FRAME
from cotune.errors import counted
from cotune.task.checks import Finding, Severity
from cotune.task.example import Example
from cotune.task.near import near_duplicates

LIKE = 0.9
"""Cosine similarity of centred vectors from which two rows count as saying the same."""
_MOST_ROWS = 20_000
_PAIRS = {"train and test": 16, "train and dev": 12, "train": 10, "dev": 5, "test": 5}
_SPARE, _TIMES_A_ROW = 12, 2
_REFERENCE, _LEAST = 24, 4
_SHARE, _MAX_CHARS, _SHOWN_CHARS, _SHOWN_IDS = 0.004, 400, 160, 6


def check_neighbours(context: RunContext, *, wanted: bool = True) -> dict[str, Any]:
    """Find pairs of rows of similar meaning, within and across the splits; recorded as a ``neighbours`` step.

    Nothing is removed, because paraphrases are common in real inputs, and similarity is a matter of degree.

    Returns:
        Number of ``rows``, number of ``pairs`` compared by the model, ``threshold``, ``alike`` (pairs of train and dev rows:
        ids, labels, beginnings of the texts, closeness), ``near_test`` (ids of train and dev rows that are similar to a test
        row), ``test_rows`` (number of these test rows), ``within_test`` (number of pairs), ``findings`` and ``tokens``; or
        ``skipped`` with the reason.
    """
    task = context.task
    rows = (*task.train, *task.dev)
    total = len(rows) + task.test.n

    def measure() -> dict[str, Any]:
        if not wanted:
            return {"skipped": "evaluate.neighbours is false"}
        if not context.can.hidden_states:
            return {"skipped": f"{context.scorer.name} answers behind an endpoint and cannot be inspected"}
        if total > _MOST_ROWS:
            return {"skipped": f"this check takes up to {_MOST_ROWS:,} rows, and there are {total:,}"}
        look = _Look(context)
        found = task.test.alike(rows, look.find)
        if not look.pairs:
            return {"skipped": look.why}
        alike = [
            {
                "rows": [rows[i].id for i in pair],
                "labels": [rows[i].output for i in pair],
                "texts": [rows[i].text[:_SHOWN_CHARS] for i in pair],
                "closeness": round(closeness, 4),
            }
            for *pair, closeness in sorted(found.pairs, key=lambda pair: -pair[2])
        ]
        value = {
            "rows": total,
            "pairs": look.pairs,
            "threshold": LIKE,
            "alike": alike,
            "near_test": list(found.near_test),
            "test_rows": found.test_rows,
            "within_test": found.within_test,
            "tokens": look.tokens,
        }
        in_dev = {row.id for row in task.dev}
        return {**value, "findings": [asdict(finding) for finding in _findings(value, in_dev, bool(task.labels))]}

    def record() -> dict[str, Any]:
        return {**attempt(context.journal, measure), **context.spending.stopwatch.taken()}

    value: dict[str, Any] = untimed(context.journal.step("neighbours", task.fingerprint, record))
    context.spending.account.counts["tokens_embedded"] += int(value.get("tokens", 0))
    return value


class _Look:
    """Finds the pairs, and keeps the number of compared pairs, their tokens, and the reason if there are none."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.pairs = self.tokens = 0
        self.why = "no two rows have a word in common, but for those that another check reports"

    def find(self, rows: Sequence[Example]) -> list[tuple[int, int, float]]:
        """Similar pairs among all rows: train, then dev, then test."""
        texts = [row.text[:_MAX_CHARS] for row in rows]
        candidates = self._within_budget(self._candidates(rows, texts), texts)
        if not candidates:
            return []
        self.pairs = len(candidates)
        with self.context.spending.stopwatch:
            return self._alike(texts, candidates)

    def _candidates(self, rows: Sequence[Example], texts: Sequence[str]) -> list[tuple[int, int]]:
        """The pairs closest by their words, those across splits first, without those that another check reports."""
        vectors = StaticEmbedder(self.context.model).embed(texts)
        labelled, train = range(len(rows) - self.context.task.test.n), range(len(self.context.task.train))
        dev, test = range(train.stop, labelled.stop), range(labelled.stop, len(rows))
        ranges = {"train and test": (labelled, test), "train and dev": (train, dev)}
        ranges |= {"train": (train, train), "dev": (dev, dev), "test": (test, test)}
        chosen: list[list[tuple[int, int]]] = []
        for name, (first, second) in ranges.items():
            taken: list[tuple[int, int]] = []
            times = np.zeros(len(rows), dtype=int)
            for left, right in closest_pairs(vectors, first, second, _SPARE * _PAIRS[name]):
                if len(taken) == _PAIRS[name]:
                    break
                # A text that is similar to everything must not fill the list.
                if max(times[left], times[right]) < _TIMES_A_ROW and not near_duplicates(rows[left], rows[right]):
                    taken.append((left, right))
                    times[[left, right]] += 1
            chosen.append(taken)
        # Alternate between kinds, so that a small budget sees the closest of every kind.
        most = max(map(len, chosen))
        return [pairs[turn] for turn in range(most) for pairs in chosen if turn < len(pairs)]

    def _length(self, text: str) -> int:
        return len(self.context.model.tokenizer(text)["input_ids"])

    def _within_budget(self, pairs: list[tuple[int, int]], texts: Sequence[str]) -> list[tuple[int, int]]:
        costs = self.context.spending.costs
        limit = _SHARE * costs.budget.amount
        head, tail = (self._length(part) for part in ONE_WORD_FRAME.split("{text}"))

        def tokens(text: str) -> int:
            # Tokens may differ where text and frame meet.
            return self._length(text) + tail + 2

        spent, seen = head + sum(map(tokens, self._reference())), set[int]()
        fitting = []
        for pair in pairs:
            spent += sum(tokens(texts[place]) for place in pair if place not in seen)
            seen.update(pair)
            if costs.alone.scoring(spent) > limit:
                self.why = f"embedding pairs of rows needs more than {costs.budget.told(limit)}, its share of the budget"
                break
            fitting.append(pair)
        return fitting if len(fitting) >= min(_LEAST, len(pairs)) else []

    def _alike(self, texts: Sequence[str], candidates: Sequence[tuple[int, int]]) -> list[tuple[int, int, float]]:
        """The pairs of texts whose embeddings by the model are similar."""

        def progress(tokens: int) -> None:
            self.tokens += tokens
            self.context.watcher.progress("neighbours", "rows that are close by their words", tokens)

        places = sorted({place for pair in candidates for place in pair})
        embedder = TextEmbedder(self.context.model, EmbedSettings(max_chars=_MAX_CHARS), progress=progress)
        vectors = embedder.embed([texts[place] for place in places] + self._reference())
        # Random rows are included in the centring, because the rows of a single cluster have too much in common.
        fitted = Standardizer.fit(vectors).apply(vectors)
        where = {place: i for i, place in enumerate(places)}
        close = [(left, right, float(fitted[where[left]] @ fitted[where[right]])) for left, right in candidates]
        return [pair for pair in close if pair[2] >= LIKE]

    def _reference(self) -> list[str]:
        """Random texts of train."""
        train = self.context.task.train
        drawn = np.random.default_rng([self.context.seed, 23]).permutation(len(train))[:_REFERENCE]
        return [train[place].text[:_MAX_CHARS] for place in drawn]


def _findings(value: dict[str, Any], dev: set[str], labelled: bool) -> list[Finding]:
    """Findings on the pairs; contradictory labels are warnings."""
    alike: list[dict[str, Any]] = value["alike"]
    by_dev = {count: [pair for pair in alike if sum(row in dev for row in pair["rows"]) == count] for count in range(3)}

    def of_pairs(kind: str, level: Severity, pairs: list[dict[str, Any]], where: str) -> list[Finding]:
        ids = tuple(row for pair in pairs for row in pair["rows"])
        return [Finding(kind, level, _paraphrases(len(pairs), where), len(pairs), ids[:_SHOWN_IDS])] if pairs else []

    # Only labels are compared, because free texts and numbers may differ for many reasons.
    clashing = [pair for pair in alike if labelled and pair["labels"][0] != pair["labels"][1]]
    found = of_pairs("same_meaning_other_label", "warning", clashing, "in train and dev with different labels")
    near, rows, within = value["near_test"], value["test_rows"], value["within_test"]
    if near:
        # More may be outside the compared pairs.
        paraphrases = "1 test row is a paraphrase" if rows == 1 else f"{rows} test rows are paraphrases"
        message = f"at least {paraphrases} of train or dev rows, so scores may be optimistic"
        found.append(Finding("same_meaning_with_test", "info", message, len(near), tuple(near[:_SHOWN_IDS])))
    found += of_pairs("same_meaning_in_train_dev", "info", by_dev[1], "across train and dev")
    found += of_pairs("same_meaning_in_train", "info", by_dev[0], "within train")
    found += of_pairs("same_meaning_in_dev", "info", by_dev[2], "within dev")
    if within:
        found.append(Finding("same_meaning_in_test", "info", _paraphrases(within, "within the test"), within))
    return found


def _paraphrases(pairs: int, where: str) -> str:
    return f"{counted(pairs, 'pair')} of paraphrases {where}"
