"""A judge over real HTTP: grades in order, asked for once, bounded where they are none; and how it compares with people."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from chat_server import Handler, Reply, chat_server, completion, send
from cotune.endpoint import AnswerCache, Client, Endpoint, EndpointError, Prices
from cotune.evaluate.judge import Asked, Judge, agreement, grade_in


def grading(handler: Handler) -> None:
    """Full marks for the right answer, half for one that has its first letter."""
    shown = json.loads(handler.request_body["messages"][-1]["content"])
    same, begins = shown["given"] == shown["right"], shown["given"][:1] == shown["right"][:1]
    send(200, completion(f'Here: {{"score": {1 if same else 0.5 if begins else 0}}}'))(handler)


ROWS = [
    Asked({"q": question}, gold, answer, f"dev:{i}")
    for i, (question, answer, gold) in enumerate(
        [("q1", "Paris", "Paris"), ("q2", "Rome", "Oslo"), ("q3", "Pisa", "Paris"), ("q1", "Paris", "Paris")]
    )
]


def test_grades_come_in_order_and_are_asked_for_once(tmp_path: Path) -> None:
    with chat_server(grading) as server:
        for _ in range(2):
            with Client(Endpoint(server.url, "m"), most=3) as client:
                judge = Judge(client, AnswerCache(tmp_path / "a.sqlite"), prices=Prices(1.0, 1.0))
                found = judge.grade(ROWS)
                assert found.values.tolist() == [1.0, 0.0, 0.5, 1.0]
                # What a run had graded once is free when it is used again, and paid for by a run that goes on.
                assert (found.rows, found.tokens) == (3, 300) and found.dollars == pytest.approx(3e-4)
                assert judge.grade(ROWS[1:]).rows == 0
        assert len(server.seen) == 3
        with Client(Endpoint(server.url, "m")) as client:
            Judge(client, AnswerCache(tmp_path / "a.sqlite"), rubric="Be strict.").grade(ROWS)
        assert len(server.seen) == 6


def test_a_row_of_several_fields_is_shown_with_their_names() -> None:
    shown = json.loads(Asked({"a": "1", "b": "2"}, "x", "y").messages("")[-1]["content"])
    assert shown == {"question": {"a": "1", "b": "2"}, "right": "x", "given": "y"}
    assert json.loads(ROWS[0].messages("")[-1]["content"])["question"] == "q1"


NO_GRADES = ["good", '{"score": 7}', '{"score": true}', '{"score": NaN}', '{"grade": 1}', "{}", "}{", "", "[" * 50_000]


@pytest.mark.parametrize("text", NO_GRADES, ids=range(len(NO_GRADES)))
def test_what_is_no_grade_is_asked_for_again_and_never_taken_for_one(tmp_path: Path, text: str) -> None:
    assert grade_in(text) is None
    with chat_server(send(200, completion(text))) as server, Client(Endpoint(server.url, "m"), sleep=lambda s: None) as client:
        with pytest.raises(EndpointError, match="no grade from 0 to 1 for dev:0, asked 3 times"):
            Judge(client, AnswerCache(tmp_path / "a.sqlite")).grade(ROWS[:1])
        assert [request["body"]["temperature"] for request in server.seen] == [0, 0.7, 0.7]


def test_a_grade_at_the_second_try_costs_both(tmp_path: Path) -> None:
    replies = [send(200, completion("hm")), grading]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m")) as client:
        found = Judge(client, AnswerCache(tmp_path / "a.sqlite")).grade(ROWS[:1])
    assert found.values.tolist() == [1.0] and found.tokens == 200


def test_a_server_that_knows_another_limit_is_found(tmp_path: Path) -> None:
    def picky(handler: Handler) -> None:
        if "max_tokens" in handler.request_body:
            send(400, b'{"error": "use max_completion_tokens"}')(handler)
        else:
            grading(handler)

    with chat_server(picky) as server, Client(Endpoint(server.url, "m")) as client:
        judge = Judge(client, AnswerCache(tmp_path / "a.sqlite"))
        assert judge.settle(ROWS[0]).limit == "max_completion_tokens"
        assert judge.grade(ROWS).values.tolist() == [1.0, 0.0, 0.5, 1.0]
        assert len(server.seen) == 1 + 3


def refusing(*refused: str) -> Reply:
    """Grades, but refuses questions with one of the texts."""

    def reply(handler: Handler) -> None:
        asked = handler.request_body["messages"][-1]["content"]
        send(400, b"content filter")(handler) if any(text in asked for text in refused) else grading(handler)

    return reply


MANY = [Asked({"q": f"q{i}"}, "Paris", "Paris" if i % 2 else "Oslo", f"dev:{i}") for i in range(20)]


def test_a_refused_grade_is_missing_and_changes_no_mean(tmp_path: Path) -> None:
    with chat_server(refusing('"q3"', '"q8"')) as server, Client(Endpoint(server.url, "m"), most=4) as client:
        judge = Judge(client, AnswerCache(tmp_path / "a.sqlite"))
        found = judge.grade(MANY)
        kept = [i % 2 for i in range(20) if i not in (3, 8)]
        assert found.missing.nonzero()[0].tolist() == [3, 8] and (found.rows, found.refused) == (20, 2)
        assert found.values[3] == found.values[8] == pytest.approx(np.mean(kept)) == pytest.approx(found.values.mean())
        assert len(server.seen) == 20, "a refused question is not repeated"
        # A resumed run reads the same, and asks nothing again.
        again = Judge(client, AnswerCache(tmp_path / "a.sqlite")).grade(MANY)
        assert again.values.tolist() == found.values.tolist() and again.refused == 2 and len(server.seen) == 20
        few = judge.grade(MANY[:10])
        assert few.missing.nonzero()[0].tolist() == [3, 8], "two of twenty were few, and these are the same"


@pytest.mark.parametrize(("refused", "rows"), [(('"q3"', '"q8"', '"q9"'), 20), (('"q0"',), 1), (('"q0"', '"q1"'), 9)])
def test_a_judge_that_refuses_more_than_a_few_answers_stops_the_run(
    tmp_path: Path, refused: tuple[str, ...], rows: int
) -> None:
    with chat_server(refusing(*refused)) as server, Client(Endpoint(server.url, "m")) as client:
        judge = Judge(client, AnswerCache(tmp_path / "a.sqlite"))
        said = rf"refused to grade {len(refused)} of {rows} answers?, first that of dev:{refused[0][2:-1]}: .*content filter"
        with pytest.raises(EndpointError, match=said) as caught:
            judge.grade(MANY[:rows])
        assert caught.value.is_refusal


@given(st.text(max_size=60))
def test_any_text_is_read_as_a_grade_or_none(text: str) -> None:
    found = grade_in(text)
    assert found is None or 0 <= found <= 1


@given(st.floats(0, 1), st.text(st.characters(exclude_characters="{}"), max_size=20))
def test_a_grade_is_found_in_whatever_stands_around_it(grade: float, around: str) -> None:
    assert grade_in(f'{around}{{"score": {grade!r}}}{around}') == grade


def test_agreement_has_intervals_that_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    hand = rng.random(60)
    found = agreement(np.clip(hand + rng.normal(0, 0.1, 60), 0, 1).tolist(), hand.tolist())
    assert found.correlation is not None and found.correlation_ci is not None
    assert 0.8 < found.correlation_ci[0] < found.correlation < found.correlation_ci[1] <= 1
    assert 0.04 < found.difference_ci[0] < found.difference < found.difference_ci[1] < 0.12
    # Grades that are all alike leave room for doubt too.
    perfect = agreement(hand.round().tolist(), hand.round().tolist())
    assert perfect.difference == 0 and perfect.difference_ci[1] > 0.01
    same = agreement([1.0, 1.0, 1.0], [0.0, 0.5, 1.0])
    assert same.correlation is None and same.difference == pytest.approx(0.5)
    with pytest.raises(ValueError, match="three common rows"):
        agreement([1.0, 0.0], [1.0, 0.0])


def test_what_a_judge_thinks_aloud_is_no_grade() -> None:
    assert grade_in('<think>{"score": X} or {"score": 0}?</think> {"score": 1}') == 1.0
    assert grade_in('<think>{"score": 1}') is None


@pytest.mark.parametrize("rows", [10, 20])
def test_the_interval_of_an_agreement_holds_the_true_value(rows: int) -> None:
    """Right and wrong by two graders whose leanings correlate by 0.9, so that their grades do by 0.71."""
    rng, held = np.random.default_rng(rows), []
    for draw in range(120):
        leanings = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=rows)
        found = agreement(*(leanings > 0).astype(float).T.tolist(), seed=draw)
        if found.correlation_ci is not None:
            held.append(found.correlation_ci[0] <= 0.713 <= found.correlation_ci[1])
    assert np.mean(held) >= 0.9


def test_perfect_agreement_on_few_rows_is_not_certain() -> None:
    low, high = agreement([0.0, 1.0] * 5, [0.0, 1.0] * 5).correlation_ci or (0.0, 0.0)
    assert 0.3 < low < 0.6 and high == 1.0
