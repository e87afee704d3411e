"""The report for everyone: text that can be read in both themes, and every control within reach of a keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import run_folder

from cotune.report.html import write_report

CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const seen = new Map();
    const rgba = (text) => {
        if (!seen.has(text)) {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
            seen.set(text, [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255));
        }
        return seen.get(text);
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
    const behind = (element) => {
        if (!element) return [1, 1, 1];
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = {};
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || element.closest('script, style, noscript, :disabled')) continue;
        if (!element.checkVisibility({visibilityProperty: true}) && !element.closest('#tip')) continue;
        const style = getComputedStyle(element), under = behind(element);
        let solid = 1;
        for (let up = element; up; up = up.parentElement) solid *= Number(getComputedStyle(up).opacity);
        const ink = rgba(element.closest('svg') ? style.fill : style.color);
        const pair = [light(over([...ink.slice(0, 3), ink[3] * solid], under)), light(under)].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        const part = element.closest('section, dialog, header, footer, #tip')?.id ?? '';
        const name = `${part} ${element.localName}.${element.getAttribute('class') ?? ''}`;
        if (!(name in found) || found[name][0] > ratio) found[name] = [ratio, texts.currentNode.data.trim().slice(0, 30)];
    }
    return found;
}"""
FOCUSED = """() => {
    const at = document.activeElement;
    if (!at || at === document.body) return null;
    const style = getComputedStyle(at), box = at.getBoundingClientRect();
    return {
        place: [...document.querySelectorAll('*')].indexOf(at),
        ring: style.outlineStyle !== 'none' || parseFloat(style.strokeWidth) >= 3,
        shown: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
        covered: box.top + 1 < document.querySelector('header').offsetHeight && !at.closest('header, dialog'),
    };
}"""
CONTROLS = """() => [...document.querySelectorAll('a[href], button, select, input, summary, [data-prompt]')]
    .filter((e) => !e.disabled && e.checkVisibility({visibilityProperty: true}) && !e.closest('dialog'))
    .map((e) => [[...document.querySelectorAll('*')].indexOf(e), e.outerHTML.slice(0, 120)])"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run_folder(tmp_path_factory.mktemp("access") / "run", rows=60))


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    opened.goto(report.as_uri())
    yield opened
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    # Every shade, whatever the counts are.
    page.evaluate(
        """document.querySelectorAll('.confusion tr').forEach((row, place) => { for (const kind of ['hit', 'miss'])
            row.insertCell().outerHTML = `<td class="${kind} c${place}">1</td><td class="${kind} c${place + 3}">1</td>`; })"""
    )
    found: dict[str, list[Any]] = {}

    def look() -> None:
        for name, (ratio, text) in page.evaluate(CONTRAST).items():
            found[name] = min(found.get(name, [99, ""]), [ratio, text])

    for arm in ("best_tuned", "seed_prompt"):
        page.select_option("[data-switch=errors]", arm)
        look()
    page.locator("#matrix-patterns button").first.click()
    page.locator("#lineage button.branch:not(.seed)").first.click()
    page.locator("#panel #diff ins").first.wait_for()
    look()
    page.keyboard.press("Escape")
    page.locator("#matrix-table .open").first.click()
    look()
    page.keyboard.press("Escape")
    page.locator("#verdict [data-tip]").first.hover()
    look()
    shades = [f"td.{kind} c{shade}" for kind in ("hit", "miss") for shade in range(1, 6)]
    for kind in (*shades, "chip winner", "chip seed", "button.", "td.cell ok", "td.cell no", "ins.", "div.", "text.tick x"):
        assert any(kind in name for name in found), (kind, sorted(found))
    assert {name: told for name, told in found.items() if told[0] < 4.5} == {}
    page.close()


def test_every_control_is_reached_by_tab_in_the_order_of_the_page(page: Any) -> None:
    wanted = dict(page.evaluate(CONTROLS))
    order: list[int] = []
    for _ in range(2 * len(wanted) + 20):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        if at is None or at["place"] in order:
            break
        order.append(at["place"])
        assert at["ring"], "what has the focus shows it"
        assert at["shown"] and not at["covered"], wanted.get(at["place"])
    assert {text for place, text in wanted.items() if place not in order} == set()
    assert order == sorted(order)


def test_the_page_can_be_worked_without_a_mouse(page: Any) -> None:
    def focus(selector: str, nth: int = 0) -> None:
        page.locator(selector).nth(nth).focus()

    def panel() -> str:
        told: str = page.inner_text("#panel")
        page.keyboard.press("Escape")
        assert not page.locator("#panel").is_visible()
        return told

    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    focus("#lineage button.branch", 1)
    page.keyboard.press("Enter")
    assert "What changed from its parent" in panel()
    assert "branch" in page.evaluate("document.activeElement.className"), "the focus goes back to what opened the panel"
    focus("#map circle[data-prompt]")
    page.keyboard.press("Space")
    assert "Scores on dev" in panel()
    focus("#robustness circle[data-prompt]")
    page.keyboard.press("Enter")
    assert "another format" in panel()
    focus("#matrix-which")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#matrix-count") == "50 of 50 rows"
    focus("#matrix-table th.arm button")
    page.keyboard.press("Enter")
    assert "the winner" in panel()
    focus("#matrix-view")
    page.keyboard.press("ArrowDown")
    some = page.inner_text("#matrix-count")
    assert some != "50 of 50 rows"
    focus("#matrix-patterns button")
    page.keyboard.press("Space")
    assert page.locator("#matrix-patterns [aria-pressed=true]").count() == 1
    page.keyboard.press("Space")
    focus("#matrix-text")
    page.keyboard.type("another")
    assert page.inner_text("#matrix-count") != some
    focus("#matrix-table .open")
    page.keyboard.press("Enter")
    assert "Right label" in panel()
    focus("[data-switch=errors]")
    page.keyboard.press("Home")
    assert page.locator("#errors [data-choice=seed_prompt]").is_visible()
    focus("#slices summary")
    page.keyboard.press("Enter")
    assert page.locator("#slices details[open]").count() == 1
