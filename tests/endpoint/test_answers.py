"""Answers on disk, and what they cost."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.endpoint import AnswerCache, Prices, Usage
from cotune.endpoint.answers import holds_answers
from cotune.endpoint.prices import tokens_of
from cotune.endpoint.request_format import answer_tokens
from cotune.errors import InputError


def test_what_was_put_is_there_in_another_process_too(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    first = AnswerCache(path)
    assert first.get("a") is None
    first.put("a", {"text": "\ud800 odd \u2028 text", "top": [[["x", -0.5]]]})
    assert AnswerCache(path).get("a") == {"text": "\ud800 odd \u2028 text", "top": [[["x", -0.5]]]}
    assert len(first) == 1


def test_an_answer_of_null_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT)")
        other.execute("INSERT INTO answers VALUES ('a', NULL)")
    with pytest.raises(InputError, match="cannot be read"):
        AnswerCache(path).get("a")


def test_several_threads_write_at_once(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    threads = [threading.Thread(target=lambda n=n: [cache.put(f"{n}-{i}", i) for i in range(20)]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 120


def test_a_file_that_is_no_cache_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"this is no database " * 100)
    with pytest.raises(InputError, match="move it away"):
        AnswerCache(path)
    assert path.read_bytes().startswith(b"this is no database")


def test_an_answer_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache.close()
    with pytest.raises(InputError, match="cannot be written"):
        cache.put("a", 1)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}, Usage(90, 10)),
        ({"prompt_tokens": 90, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 64}}, Usage(90, 1, 64)),
        ({"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 999}}, Usage(90, 4, 90)),
        ({"total_tokens": 77}, Usage(73, 4)),
        ({"total_tokens": 2}, Usage(0, 2)),
        ({"prompt_tokens": -5, "completion_tokens": 10**30}, Usage(50, 4)),
        ({"prompt_tokens": True, "completion_tokens": "9"}, Usage(50, 4)),
        (None, Usage(50, 4)),
        ("odd", Usage(50, 4)),
    ],
)
def test_usage_is_taken_as_told_and_estimated_where_it_is_not(usage: Any, expected: Usage) -> None:
    assert Usage.read({"usage": usage}, asked=50, answer="twelve chars") == expected


def test_prices_count_cached_tokens_apart() -> None:
    usage = Usage(1_000_000, 500_000, 400_000)
    assert Prices(1.0, 4.0).cost(usage) == pytest.approx(3.0)
    assert Prices(1.0, 4.0, 0.25).cost(usage) == pytest.approx(0.6 + 0.1 + 2.0)
    assert Usage(1, 2, 0) + Usage(10, 20, 5) == Usage(11, 22, 5)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_no_usage_however_odd_does_harm(odd: Any) -> None:
    found = Usage.read(
        {"usage": {"prompt_tokens": odd, "completion_tokens": odd, "prompt_tokens_details": odd}}, asked=7, answer=""
    )
    assert 0 <= found.cached <= found.input < 10**9 and 0 <= found.output < 10**9


def test_a_file_is_known_to_hold_no_answer(tmp_path: Path) -> None:
    """A run that never reached its endpoint leaves an empty file, which keeps nothing worth a folder."""
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    assert not holds_answers(path)
    cache.put("key", {"text": "yes"})
    assert holds_answers(path)
    cache.close()
    (tmp_path / "damaged").write_bytes(b"no database" * 100)
    assert holds_answers(path) and holds_answers(tmp_path / "damaged")


def test_other_scripts_have_more_tokens_a_character() -> None:
    assert tokens_of("a" * 30) == 10 and tokens_of("你" * 30) == 30
    assert answer_tokens(["好" * 40]) > answer_tokens(["a" * 40])
