"""The data checks find what was planted, and nothing in clean data."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.task import near, split
from cotune.task.checks import Finding, Removed, check_data
from cotune.task.example import Example
from cotune.task.near import near_pairs
from cotune.task.overlap import overlapping_test_rows
from cotune.task.sealed import SealedTest
from cotune.task.split import normalised

WORDS = "account card payment transfer money bank lost stolen pin limit fee top up verify app phone order travel"


def sentences(size: int, seed: int, words: int = 12) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS.split(), k=words)) + f" {chooser.random():.9f}" for _ in range(size)]


def examples(texts: list[str], role: str = "train", labels: str = "ab") -> list[Example]:
    return [Example(f"{role}:{i}", {"text": text}, labels[i % len(labels)]) for i, text in enumerate(texts, start=1)]


def grams(text: str) -> set[str]:
    plain = normalised(text)
    return {plain[start : start + 5] for start in range(len(plain) - 4)}


@pytest.mark.parametrize(("block", "small"), [(500, 10**6), (7, 10**6), (7, 0)])
def test_near_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, block: int, small: int) -> None:
    monkeypatch.setattr(near, "_BLOCK", block)
    monkeypatch.setattr(near, "_SMALL", small)
    chooser = random.Random(0)
    texts = sentences(35, seed=1)
    for text in list(texts):
        mangled = list(text)
        for _ in range(chooser.randint(1, 4)):
            mangled[chooser.randrange(len(mangled))] = chooser.choice("xyz ")
        texts.append("".join(mangled))
    texts += ["", "abc", "abcd", "abcde", "ABCDE", texts[0], texts[0].upper()]
    wanted = []
    for left in range(len(texts)):
        for right in range(left + 1, len(texts)):
            one, other = grams(texts[left]), grams(texts[right])
            same = normalised(texts[left]) == normalised(texts[right])
            repeat = any(normalised(texts[i]) == normalised(texts[j]) for j in (left, right) for i in range(j))
            if not same and not repeat and one and other and len(one & other) >= 0.8 * len(one | other) - 1e-9:
                wanted.append((left, right))
    assert len(wanted) >= 12
    assert near_pairs(examples(texts)) == wanted


def test_near_pairs_of_long_rows_need_little_memory() -> None:
    chooser = random.Random(2)
    words = ["".join(chooser.choices("abcdefghijklmnop", k=5)) for _ in range(20_000)]
    rows = examples([" ".join(chooser.choices(words, k=170)) for _ in range(2000)])
    near_pairs(rows[:10])
    tracemalloc.start()
    near_pairs(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


@pytest.mark.parametrize("words", [12, 150])
def test_checks_of_5000_rows_take_less_than_five_seconds(words: int) -> None:
    # eighteen words in all: every text shares nearly all its grams with every other, the worst case there is
    rows = examples(sentences(4500, seed=3, words=words))
    texts = sentences(500, seed=4, words=words)
    planted = [Example(f"train:near{i}", {"text": texts[i] + "!"}, "a") for i in range(20)]
    train = [*rows[:4200], *planted]
    near_pairs(rows[:10])  # imports are not counted
    start = time.process_time()
    found = check_data(train, rows[4200:], SealedTest(examples(texts, "test")), ("a", "b"))
    assert time.process_time() - start < 5
    assert found["near_duplicates_with_test"].count == 20


def test_clean_data_has_no_findings() -> None:
    rows = examples(sentences(200, seed=5))
    found = check_data(rows[:150], rows[150:], SealedTest(examples(sentences(40, seed=6), "test")), ("a", "b"))
    assert found.findings == ()
    assert found.counts["train"] == 150


def test_repeated_inputs_in_the_test_are_a_warning_if_intervals_ignore_them() -> None:
    rows, tested = examples(sentences(60, seed=7)), examples(sentences(30, seed=8), "test")
    repeated = [replace(row, id=f"{row.id}-{n}") for row in tested[:10] for n in range(2)]

    def finding(test: list[Example]) -> Finding:
        return check_data(rows[:40], rows[40:], SealedTest(test), ("a", "b"))["repeats_in_test"]

    found = finding([*tested, *repeated])
    # Ten inputs occur three times and twenty once: (10 * 9 + 20) / 50 = 2.2, and its root is 1.5.
    assert (found.severity, found.count) == ("warning", 20) and "factor of up to 1.5" in found.message
    grouped = [replace(row, group=row.fields["text"]) for row in (*tested, *repeated)]
    assert finding(grouped).severity == "info", "groups are accounted for"
    few = finding([*tested, repeated[0]])
    assert few.severity == "info" and few.message == "1 test row repeats the input of an earlier one"


def test_planted_problems_are_found() -> None:
    texts = sentences(200, seed=7)
    rows = examples(texts)
    train, dev = rows[:150], rows[150:]
    test_rows = examples(sentences(40, seed=8), "test")
    plant = [
        Example("train:near-dev", {"text": dev[0].fields["text"] + "!"}, "a"),
        Example("train:near-test", {"text": test_rows[3].fields["text"] + "?"}, "a"),
        Example("train:near-train", {"text": train[9].fields["text"] + "."}, "a"),
        Example("train:repeat", {"text": train[4].fields["text"].upper()}, train[4].output),
        Example("train:clash", {"text": train[6].fields["text"]}, "b" if train[6].output == "a" else "a"),
        Example("train:long", {"text": " ".join(str(i) for i in range(700))}, "b"),
        Example("train:few", {"text": "quite another thing altogether"}, "rare"),
    ]
    labels = ("B", "a", "b", "never", "rare")
    found = check_data([*train, *plant], dev, SealedTest([*test_rows, test_rows[0]]), labels)
    assert found["near_duplicates_train_dev"].examples == ("train:near-dev",)
    assert found["near_duplicates_with_test"].examples == ("train:near-test",)
    assert found["near_duplicates_in_train"].examples == ("train:near-train",)
    assert found["repeats_in_train"].examples == ("train:repeat", "train:clash")
    assert found["repeats_in_test"].count == 1
    assert set(found["contradicting_labels"].examples) == {"train:7", "train:clash"}
    assert "1 input has more than one label (2 rows in train and dev)" in found["contradicting_labels"].message
    assert found["contradicting_labels"].message.endswith("keep one label for each")
    assert found["long_inputs"].examples == ("train:long",)
    assert "the longest has 700" in found["long_inputs"].message
    assert found["labels_without_rows"].count == 2
    assert found["labels_with_few_rows"].examples == ("train:few",)
    assert "2 labels have no train row" in found["labels_without_rows"].message
    assert "1 label has fewer than" in found["labels_with_few_rows"].message
    assert "label more rows of it" in found["labels_with_few_rows"].message
    assert found["imbalanced_labels"].severity == "info" and " train rows of " in found["imbalanced_labels"].message
    assert found["labels_alike"].count == 1
    severities = [finding.severity for finding in found.findings]
    assert severities == sorted(severities, key=["warning", "info"].index)
    assert json.loads(json.dumps(found.to_json()))["findings"][0]["kind"] == found.findings[0].kind
    with pytest.raises(KeyError):
        found["nothing"]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (("A b", "a_b"), "labels_alike"),
        (("yes", "Yes!"), "labels_alike"),
        (("card-arrival", "card arrival"), "labels_alike"),
        (("(other)", "other"), "labels_alike"),
        (("\u00e9", "e\u0301"), "labels_alike"),
        (("👍", "👎"), None),
        (("+", "-"), None),
        (("C", "C++"), None),
        (("C", "C#"), None),
        (("-1", "1"), None),
        (("B", "B-"), None),
        (("1.5", "15"), None),
        (("*", "**"), None),
        (("cat", "c\u0430t"), "labels_look_alike"),
        (("\u0421", "C"), "labels_look_alike"),
        (("\u039f", "O"), "labels_look_alike"),
        (("spam", "spam\u200b"), "labels_look_alike"),
        (("spam", "\u2060spam"), "labels_look_alike"),
        # A joiner inside an emoji shows: a family, and its three members.
        (("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\U0001f469\U0001f467"), None),
        (("\u043a\u043e\u0442", "\u043a\u0438\u0442"), None),
    ],
)
def test_labels_that_people_take_for_one_are_told_and_no_others(labels: tuple[str, str], kind: str | None) -> None:
    train = [Example(f"train:{i}", {"text": text}, labels[i % 2]) for i, text in enumerate(sentences(40, 5))]
    found = check_data(train, train[:2], SealedTest(examples(sentences(9, 6), "test")), labels)
    assert {finding.kind for finding in found.findings if "alike" in finding.kind} == ({kind} if kind else set())
    if kind is not None and not "".join(labels).isascii():
        assert all(ascii(label) in found[kind].message for label in labels), "what looks the same is told apart"


def test_a_long_row_is_read_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of megabytes takes a tenth of a second, and the checks compare inputs in half a dozen places."""
    read: list[int] = []

    def counted(text: str) -> str:
        read.append(len(text))
        return normalised(text)

    monkeypatch.setattr(split, "normalised", counted)
    monkeypatch.setattr(near, "normalised", counted)
    rows = [{"text": f"{i} " + text * 400, "label": "ab"[i % 2]} for i, text in enumerate(sentences(40, 7))]
    Task.from_rows(rows, input="text", output="label")
    total = sum(len(row["text"]) for row in rows)
    assert total <= sum(read) <= 1.5 * total


def test_findings_never_show_test_rows() -> None:
    test_rows = examples(sentences(40, seed=9), "test")
    train = [Example(f"train:{i}", {"text": row.fields["text"] + "!"}, row.output) for i, row in enumerate(test_rows)]
    found = check_data(train, train[:3], SealedTest(test_rows), ("a", "b"), removed=Removed(("train:1",), test_rows_repeated=1))
    told = json.dumps(found.to_json())
    assert "test:" not in told
    assert not any(row.fields["text"] in told for row in test_rows)


def test_groups_across_splits_are_told() -> None:
    train = [Example(f"train:{i}", {"text": text}, "ab"[i % 2], f"g{i % 7}") for i, text in enumerate(sentences(40, 1))]
    test = [Example(f"test:{i}", {"text": text}, "ab"[i % 2], f"g{i + 5}") for i, text in enumerate(sentences(9, 2))]
    checks = check_data(train, train[5:7], SealedTest(test), ("a", "b"))
    assert checks["groups_across_test"].count == 2
    assert checks["groups_across_dev"].count == 2
    assert checks["groups_across_dev_and_test"].message.startswith("2 groups occur in both dev and test")
    assert not [f.kind for f in check_data(train[2:3], train[3:4], SealedTest(test), ("a", "b")).findings if "groups" in f.kind]


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.mark.parametrize(
    ("shown", "row", "overlaps"),
    [
        (f"Classify. Example: {LONG} => a", LONG, True),
        (f"x {LONG.upper().replace(' ', ', ')} y", LONG, True),
        ("one two three four five six seven eight nine ten eleven twelve", LONG, False),
        ("Example: where is my card", "Where is my card?", True),
        ("Example: where is my card", "Where is my card now?", False),
        ("Say yes or no", "yes", False),
        ("分类。例如：我的银行卡不见了怎么办 => a", "我的银行卡不见了怎么办？", True),
        ("カードをなくしました。どうすればいいですか。今すぐ教えて", "カードをなくしました。どうすればいいですか", True),
        ("カード・をなくしました。", "カードをなくしました", True),
        ("例如：我的app坏了怎么办", "app坏了", False),
        ("1 2 3 4 5", "2 3 4", True),
        ("分类。例如：我的银行卡不见了怎么办 => a", "银行卡", False),
        ("分类。例如：我的银行卡不见了怎么办 => a", "我的银行卡不见了怎么查", False),
        ("", LONG, False),
    ],
)
def test_thirteen_words_in_a_row_overlap(shown: str, row: str, overlaps: bool) -> None:
    test = [Example("test:1", {"text": row}, "a")]
    assert overlapping_test_rows([shown], test) == int(overlaps)
    assert SealedTest(test).overlapping_rows(["nothing here", shown]) == int(overlaps)


def test_near_duplicates_of_very_many_rows_are_left_out_and_told() -> None:
    rows = [Example(f"train:{i}", {"text": str(n)}, "ab"[i % 2]) for i, n in enumerate(np.arange(20_100))]
    found = check_data(rows, rows[:1], SealedTest(rows[:1]), ("a", "b"))
    assert found["near_duplicates_skipped"].count == 20_102


def test_near_pairs_of_thousands_of_rows_stand_once_lower_first() -> None:
    texts = sentences(4300, seed=11, words=6)
    for first, second in ((7, 2500), (2100, 2200), (3000, 4200)):
        texts[second] = texts[first] + "!"
    assert near_pairs(examples(texts)) == [(7, 2500), (2100, 2200), (3000, 4200)]
