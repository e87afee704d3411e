"""The report in a real browser: nothing leaves, nothing breaks, the controls do what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, run_folder

from cotune.report.html import write_report


class Watched:
    """A page with what it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.address = path.as_uri()
        self.page.goto(self.address)

    def check(self) -> None:
        """Nothing was asked of anyone, nothing went wrong."""
        assert [url for url in self.requests if url != self.address and not url.startswith("data:")] == []
        assert self.errors == []

    def count(self) -> int:
        """Rows that the matrix says it shows."""
        return int(self.page.inner_text("#matrix-count").split()[0])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run_folder(tmp_path_factory.mktemp("browser") / "run", rows=120))


@pytest.mark.parametrize("width", [1000, 1200, 1280])
def test_gains_stay_inside_their_figure(browser: Any, tmp_path: Path, width: int) -> None:
    folder = run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["gains"]["synergy"] |= {"value": 0.0, "ci": [-0.105, 0.105], "p": 1.0}
    summary["gains"]["both"] |= {"p": 0.031, "within_noise": True}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    watched = Watched(browser, write_report(folder), viewport={"width": width, "height": 900})
    rows = watched.page.locator("#verdict .strips .number").evaluate_all(
        "cells => cells.map(cell => [cell.innerText, cell.scrollWidth - cell.clientWidth])"
    )
    texts = " ".join(" ".join(text.split()) for text, _ in rows)
    assert "no significant difference, p = 1.000" in texts and "within the noise of this machine, p = 0.031" in texts
    assert [(text, over) for text, over in rows if over > 0] == []
    watched.page.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Watched]:
    watched = Watched(browser, report, viewport={"width": 1280, "height": 900})
    yield watched
    watched.check()
    watched.page.close()


def test_filters_filter(opened: Watched) -> None:
    page = opened.page
    assert opened.count() == 120 and page.locator("#matrix-table tbody tr").count() == 50
    page.select_option("#matrix-view", "wrong")
    marks = page.locator("#matrix-table tbody td.cell").all_inner_texts()
    assert set(marks) == {"✗"} and 0 < opened.count() < 120
    wrong = opened.count()
    page.select_option("#matrix-view", "right")
    assert set(page.locator("#matrix-table tbody td.cell").all_inner_texts()) == {"✓"}
    right = opened.count()
    page.select_option("#matrix-view", "differ")
    assert opened.count() == 120 - wrong - right
    rows = [row.inner_text() for row in page.locator("#matrix-table tbody tr").all()]
    assert rows and all("✓" in row and "✗" in row for row in rows)
    page.select_option("#matrix-view", "all")
    page.select_option("#matrix-label", label="fruit (40)")
    assert opened.count() == 40
    assert set(page.locator("#matrix-table tbody td.gold").all_inner_texts()) == {"fruit"}
    page.select_option("#matrix-label", "")
    page.fill("#matrix-text", "another")
    assert opened.count() == 60
    page.fill("#matrix-text", "")
    button = page.locator("#matrix-patterns button").first
    size = int(re.findall(r"\d+", button.inner_text())[0])
    button.click()
    assert opened.count() == size < 120 and button.get_attribute("aria-pressed") == "true"
    button.click()
    assert opened.count() == 120
    page.click("#matrix-pager button:has-text('Next')")
    assert "page 2 of 3" in page.inner_text("#matrix-pager")


def test_dev_rows_against_the_best_prompts_have_the_same_filters(opened: Watched) -> None:
    page = opened.page
    page.locator("#matrix-patterns button").first.click()
    page.select_option("#matrix-which", "dev")
    assert opened.count() == 50 and page.locator("#matrix-patterns [aria-pressed=true]").count() == 0
    heads = page.locator("#matrix-table th.arm").all_inner_texts()
    assert heads == ["1st (winner), tuned", "2nd, base", "3rd, base", "4th, base", "5th, base", "6th (seed), base"]
    assert page.locator("#matrix-table tbody tr").first.locator("td.cell").count() == 6
    page.select_option("#matrix-label", label="fruit (17)")
    assert opened.count() == 17
    page.select_option("#matrix-view", "wrong")
    assert 0 < opened.count() < 17 and set(page.locator("#matrix-table td.cell").all_inner_texts()) == {"✗"}
    page.locator("#matrix-table .open").first.click()
    told = page.inner_text("#panel")
    assert "1st (winner), tuned: tool ✗ wrong" in told and "tuned 20 steps, 74.0%" in told and told.count("%") >= 18
    page.keyboard.press("Escape")
    page.locator("#matrix-table th.arm button").first.click()
    assert "the winner" in page.inner_text("#panel")
    page.keyboard.press("Escape")
    page.select_option("#matrix-which", "test")
    assert page.locator("#matrix-table th.arm").count() == 5 and page.input_value("#matrix-label") == "fruit"


def test_a_row_opens_with_answers_and_probabilities(opened: Watched) -> None:
    page = opened.page
    page.locator("#matrix-table .open").first.click()
    told = page.inner_text("#panel")
    assert "a plain row" in told and "best tuned: animal ✓ right" in told and told.count("%") >= 15
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()


def test_prompts_open_with_their_difference_by_mouse_and_by_keyboard(opened: Watched) -> None:
    page = opened.page
    page.locator("#lineage button.branch:not(.seed)").first.click()
    assert page.inner_text("#panel pre").startswith("Say what text 1 is about.")
    assert page.locator("#diff ins").count() > 0 and page.locator("#diff del").count() > 0
    page.click("#panel button:has-text('Open parent')")
    assert "the seed prompt" in page.inner_text("#panel")
    page.keyboard.press("Escape")
    page.locator("#map circle[data-prompt]").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#panel").is_visible()
    page.click("#panel button:has-text('Close')")
    page.select_option("[data-switch=map]", "2")
    assert page.locator("#map [data-choice='2']").is_visible() and not page.locator("#map [data-choice='1']").is_visible()


def test_tips_and_arms_and_theme(opened: Watched) -> None:
    page = opened.page
    page.locator("#verdict .strip[data-tip]").first.hover()
    assert "seed prompt: 31.0%" in page.inner_text("#tip")
    before = page.inner_text("#errors [data-choice='best_tuned']")
    page.select_option("[data-switch=errors]", "seed_prompt")
    assert not page.locator("#errors [data-choice='best_tuned']").is_visible() and before
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) != light and page.inner_text("#theme") == "Light"
    page.click("#theme")
    assert page.evaluate(background) == light


def test_confusions_of_nine_labels_need_no_scroll_bar(browser: Any, tmp_path: Path) -> None:
    labels = ("account_access", "billing_problem", "cancel_subscription", "damaged_item", "delivery_status", "feedback")
    labels += ("product_question", "refund_request", "wrong_item")
    watched = Watched(
        browser, write_report(run_folder(tmp_path / "run", labels=labels)), viewport={"width": 1280, "height": 800}
    )
    box = watched.page.locator("#errors .scroll:visible", has=watched.page.locator(".confusion"))
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
    watched.page.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_either_size(browser: Any, report: Path, width: int, scheme: str) -> None:
    watched = Watched(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = watched.page.evaluate(
        """() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"""
    )
    lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (lightness[0] < lightness[1]) == (scheme == "light") and abs(lightness[0] - lightness[1]) > 400
    watched.check()
    watched.page.close()


def test_tables_of_numbers_keep_words_and_intervals_whole_on_a_phone(browser: Any, report: Path) -> None:
    watched = Watched(browser, report, viewport={"width": 390, "height": 800})
    torn = watched.page.eval_on_selector_all(
        "#slices td, #robustness td",
        """cells => { const range = document.createRange(), torn = [];
            for (const cell of cells) {
                const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
                while (texts.nextNode())
                    for (const word of texts.currentNode.data.matchAll(/\\S+/g)) {
                        range.setStart(texts.currentNode, word.index);
                        range.setEnd(texts.currentNode, word.index + word[0].length);
                        if (range.getClientRects().length > 1) torn.push(word[0]);
                    } }
            return torn; }""",
    )
    assert torn == []
    table = watched.page.locator("#slices .scroll").first
    assert table.evaluate("box => box.scrollWidth <= box.clientWidth"), "nothing lies behind a scroll bar"
    gaps = watched.page.eval_on_selector_all(
        "#robustness tr",
        """rows => rows.filter(row => row.querySelectorAll('.quiet').length > 1).map(row => {
            const range = document.createRange(), ends = [...row.querySelectorAll('.quiet')].map(cell => {
                range.selectNodeContents(cell); return range.getBoundingClientRect(); });
            return ends[1].left - ends[0].right; })""",
    )
    assert gaps and min(gaps) >= 8
    watched.check()
    watched.page.close()


def test_hostile_texts_neither_run_nor_break_the_page(browser: Any, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", rows=32, prompts=17, texts=HOSTILE, labels=("a</script>", "<img src=x>", "'\"&"))
    watched = Watched(browser, write_report(folder), viewport={"width": 390, "height": 800})
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.count() == 32
    for place in range(8):
        page.locator("#matrix-table .open").nth(place).click()
        assert page.locator("#panel pre").first.inner_text().strip()
        page.keyboard.press("Escape")
    assert page.locator("#lineage button.branch").count() == 17
    for place in range(9):
        page.locator("#lineage button.branch").nth(place).click()
        page.keyboard.press("Escape")
    assert page.evaluate("window.hurt") is None
    assert page.locator("main img, dialog img").count() == 0
    watched.check()
    page.close()


def test_an_unfinished_run_and_the_start_of_one_open_too(browser: Any, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", finished=False)
    watched = Watched(browser, write_report(folder))
    assert "not ended" in watched.page.inner_text("h1")
    watched.check()
    (folder / "journal.jsonl").write_text("")
    watched = Watched(browser, write_report(folder))
    assert "Nothing has been measured" in watched.page.inner_text("#verdict")
    watched.check()


def test_a_row_of_written_answers_opens_with_its_difference_inert(browser: Any, tmp_path: Path) -> None:
    labels = ("play <img src=x onerror='window.hurt = 1'> now", "play </script><script>window.hurt = 1</script> later", "stop")
    watched = Watched(browser, write_report(run_folder(tmp_path / "run", rows=12, labels=labels, late=True)))
    page = watched.page
    assert page.inner_text("#matrix-table thead th >> nth=1") == "Right answer"
    seen = set()
    for place in range(3):
        page.locator("#matrix-table .open").nth(place).click()
        gold = page.inner_text("#panel p:has-text('Right answer: ') b")
        assert gold in labels
        for heading in page.locator("#panel h3").all():
            answer, right = heading.locator("bdi").inner_text(), "right" in heading.inner_text().split("✓")[-1]
            changes = heading.locator("xpath=following-sibling::*[1][self::p][del or ins or span]")
            assert changes.count() == (answer != gold) and right == (answer == gold)
            if answer != gold:
                parts = [(part.evaluate("node => node.tagName"), part.text_content()) for part in changes.locator("> *").all()]
                assert "".join(text for tag, text in parts if tag != "INS") == gold
                assert "".join(text for tag, text in parts if tag != "DEL") == answer
                seen.add(answer)
        page.keyboard.press("Escape")
    assert seen
    assert page.evaluate("window.hurt") is None and page.locator("main img, dialog img").count() == 0
    watched.check()
    page.close()
