"""What is typed in a terminal or sent by the page becomes labels, and nobody else's word does."""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asked import answers, on_page, session_of, typed

from cotune.labelling.session import session_file

LABELS = ("fruit", "animal", "tool")
MANY = tuple(f"card_{name}" if i % 2 else f"{name}_fee" for i, name in enumerate(f"w{i:02}" for i in range(40)))
TEXTS = ("a plum", "a \x1b[31mdog", "a saw", "a fig")


def test_a_key_labels_a_row_and_others_skip_undo_and_take_the_guess(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    # A key that is none rings; then fruit, skip, undo, tool, guess, undo, guess, fruit.
    shown = typed(session_of(out, LABELS, TEXTS), "z1su3\ru\r1")
    assert answers(out) == ["fruit", "tool", "animal", "fruit"]
    assert "\a" in shown and "Row 4 of 4, 3 labelled, 0 skipped, the model was right on 1" in shown
    assert "animal  0.60  <- the model's guess" in shown
    assert "\\x1b[31mdog" in shown and "\x1b[31m" not in shown


def test_quitting_by_any_key_leaves_what_was_said_and_the_rest_for_later(tmp_path: Path) -> None:
    for name, keys in (("q", "1q"), ("interrupt", "1\x03"), ("end", "1\x04")):
        out = tmp_path / f"{name}.csv"
        typed(session_of(out, LABELS, TEXTS), keys)
        assert answers(out) == ["fruit"] and session_file(out).is_file()


def test_of_many_labels_a_part_is_typed(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    # Taken by its beginning; the guess by Enter alone; skipped by Tab; undone by Backspace; by an arrow; "x" fits none.
    shown = typed(session_of(out, MANY, TEXTS), "w08\r\r\t\x7fcardx\x1b[B\rw3\x7f\x7fW10\r")
    assert answers(out) == ["w08_fee", "card_w01", "card_w03", "w10_fee"]
    assert "Type a part of the label" in shown and "\a" in shown


def ask(address: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    url = urlsplit(address)
    bearer = {"Authorization": f"Bearer {url.fragment if token is None else token}"} if token != "" else {}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=120)) as connection:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, data, {**bearer, **headers})
        reply = connection.getresponse()
        text = reply.read().decode()
        kind = reply.getheader("content-type") or ""
        return reply.status, json.loads(text) if "json" in kind else text, {k.lower(): v for k, v in reply.getheaders()}


def test_the_page_takes_answers_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    with on_page(session_of(out, LABELS, TEXTS)) as address:
        status, page, headers = ask(address, "/", token="")
        assert status == 200 and "plum" not in page and "frame-ancestors" in headers["content-security-policy"]
        state = ask(address, "/state")[1]
        assert state["fields"] == [["text", "a plum"]] and state["guess"] == "animal" and state["of"] == 4
        assert [one["key"] for one in state["labels"]] == ["1", "2", "3"]
        assert ask(address, "/answer", {"do": "label", "at": 0, "label": "tool"})[1]["at"] == 1
        assert answers(out) == ["tool"]
        # A second page that still shows the first row.
        status, told, _ = ask(address, "/answer", {"do": "label", "at": 0, "label": "fruit"})
        assert status == 409 and told["at"] == 1 and answers(out) == ["tool"]
        assert ask(address, "/answer", {"do": "undo", "at": 1})[1]["at"] == 0 and not out.exists()
        for label in ("fruit", "animal", "tool"):
            at = ask(address, "/state")[1]["at"]
            assert ask(address, "/answer", {"do": "label", "at": at, "label": label})[0] == 200
        done = ask(address, "/answer", {"do": "skip", "at": 3})[1]
        assert done["fields"] is None and (done["labelled"], done["skipped"], done["agreed"]) == (3, 1, 1)
        assert ask(address, "/answer", {"do": "quit", "at": 4})[0] == 200
    assert answers(out) == ["fruit", "animal", "tool"]


def test_nobody_without_the_token_reads_or_labels(tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    asked = session_of(out, LABELS, TEXTS)
    with on_page(asked) as address:
        for token in ("", "wrong"):
            for path, body in (("/state", None), ("/answer", {"do": "label", "at": 0, "label": "tool"})):
                status, told, _ = ask(address, path, body, token=token)
                assert status == 401 and "plum" not in str(told)
        assert ask(address, "/state", Host="evil.test")[0] == 421
        assert ask(address, "/state", Origin="http://evil.test")[0] == 403
        bad: tuple[Any, ...] = (
            b"",
            b"[]",
            b"{",
            {"do": "label"},
            {"do": "label", "at": 0, "label": "stone"},
            {"do": "x", "at": 0},
        )
        assert {ask(address, "/answer", body)[0] for body in bad} == {400}
        assert ask(address, "/answer", b"x" * 100_000)[0] == 413
        assert asked.at == 0
        ask(address, "/answer", {"do": "quit", "at": 0})
