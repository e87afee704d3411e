"""A judge over real HTTP: grades in order, asked for once, bounded where they are none; and how it compares with people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chat_server import Handler, chat_server, completion, send
from cotune.endpoint import AnswerCache, Client, Endpoint, EndpointError
from cotune.evaluate.judge import Judge, agreement


def grading(handler: Handler) -> None:
    """Full marks for the right answer, half for one that has its first letter."""
    shown = json.loads(handler.request_body["messages"][-1]["content"])
    same, begins = shown["given"] == shown["right"], shown["given"][:1] == shown["right"][:1]
    send(200, completion(f'Here: {{"score": {1 if same else 0.5 if begins else 0}}}'))(handler)


def test_grades_come_in_order_and_are_asked_for_once(tmp_path: Path) -> None:
    rows = (["q1", "q2", "q3", "q1"], ["Paris", "Rome", "Pisa", "Paris"], ["Paris", "Oslo", "Paris", "Paris"])
    with chat_server(grading) as server:
        for _ in range(2):
            with Client(Endpoint(server.url, "m"), most=3) as client:
                judge = Judge(client, AnswerCache(tmp_path / "a.sqlite"))
                assert judge.score_rows(*rows).tolist() == [1.0, 0.0, 0.5, 1.0]
        assert len(server.seen) == 3
        with Client(Endpoint(server.url, "m")) as client:
            Judge(client, AnswerCache(tmp_path / "a.sqlite"), rubric="Be strict.").score_rows(*rows)
        assert len(server.seen) == 6


@pytest.mark.parametrize("text", ["good", '{"score": 7}', '{"score": true}', '{"score": NaN}', '{"grade": 1}', "{}", "}{"])
def test_what_is_no_grade_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    with chat_server(send(200, completion(text))) as server, Client(Endpoint(server.url, "m"), sleep=lambda s: None) as client:
        with pytest.raises(EndpointError):
            Judge(client, AnswerCache(tmp_path / "a.sqlite")).score_rows(["q"], ["a"], ["b"])
        assert len(server.seen) == 8


def test_agreement_has_intervals_that_hold_the_value() -> None:
    rng = np.random.default_rng(0)
    hand = rng.random(60)
    found = agreement(np.clip(hand + rng.normal(0, 0.1, 60), 0, 1).tolist(), hand.tolist())
    assert found.correlation is not None and found.correlation_ci is not None
    assert 0.8 < found.correlation_ci[0] < found.correlation < found.correlation_ci[1] <= 1
    assert 0.04 < found.difference_ci[0] < found.difference < found.difference_ci[1] < 0.12
    same = agreement([1.0, 1.0, 1.0], [0.0, 0.5, 1.0])
    assert same.correlation is None and same.difference == pytest.approx(0.5)
    with pytest.raises(ValueError, match="three rows"):
        agreement([1.0, 0.0], [1.0, 0.0])
