"""The page of ``cotune label`` in a real browser, by its keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "labelling"))
from asked import answers, on_page, session_of

PATIENCE = 120_000
"""Milliseconds."""


def test_rows_are_labelled_by_keys_alone(browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "labelled.csv"
    page, errors = browser.new_page(), list[str]()
    page.on("console", lambda message: errors.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    with on_page(session_of(out, ("fruit", "animal", "tool"), ("a plum", "a <b>dog</b>", "a saw", "a fig"))) as address:
        page.goto(address)

        def press(key: str, following: str) -> None:
            page.keyboard.press(key)
            page.wait_for_function(
                "text => document.getElementById('row').textContent === text", arg=following, timeout=PATIENCE
            )

        page.wait_for_function("() => document.getElementById('row').textContent === 'a plum'", timeout=PATIENCE)
        press("1", "a <b>dog</b>")
        press("s", "a saw")
        press("u", "a <b>dog</b>")
        press("Enter", "a saw")
        press("3", "a fig")
        press("s", "All rows are done. Quit ends the command, Undo goes back.")
        assert page.inner_text("#progress") == "4 of 4 done, 3 labelled, 1 skipped"
        press("q", "The command has ended; this page can be closed.")
    page.close()
    assert answers(out) == ["fruit", "animal", "tool"] and errors == []


def test_of_many_labels_a_part_is_typed(browser: Any, tmp_path: Path) -> None:
    out, page = tmp_path / "labelled.csv", browser.new_page()
    labels = tuple(f"card_w{i:02}" if i % 2 else f"w{i:02}_fee" for i in range(40))
    with on_page(session_of(out, labels, ("one", "two"))) as address:
        page.goto(address)
        page.wait_for_selector("#typed:focus")
        page.keyboard.type("w08")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('row').textContent === 'two'", timeout=PATIENCE)
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('row').textContent.startsWith('All rows')", timeout=PATIENCE)
        page.click("#quit")
        page.wait_for_function("() => document.getElementById('row').textContent.startsWith('The command')", timeout=PATIENCE)
    page.close()
    assert answers(out) == ["w08_fee", "card_w01"]
