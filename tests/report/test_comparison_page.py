"""The page of two runs that are compared: what it says, that nothing leaves it, and that texts stay texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE
from typer.testing import CliRunner

from cotune.cli import app
from cotune.cycle.runs.side_by_side import compare_runs
from cotune.report.html.comparison import render_comparison
from finished_runs import finished

BEFORE = [i % 3 > 0 for i in range(60)]
AFTER = [i % 3 > 0 or i < 30 for i in range(60)]
# Half a surrogate pair stands in no file that can be written.
TEXTS = tuple(text.replace("\ud800", "") for text in HOSTILE)


def pair(folder: Path, **more: Any) -> tuple[Path, Path]:
    frozen = {"adapter_id": "base", "steps": 0}
    return finished(folder / "before", BEFORE, **frozen, **more), finished(folder / "after", AFTER, **more)


def test_the_command_writes_the_page_and_says_where(tmp_path: Path) -> None:
    before, after = pair(tmp_path)
    page = tmp_path / "difference.html"
    ended = CliRunner().invoke(app, ["compare", str(before), str(after), "--report", str(page)])
    assert ended.exit_code == 0 and f"Report: {page}" in ended.stdout and "gains 16.7 points" in ended.stdout
    told = " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")).split())
    assert "gains 16.7 points over" in told and "no significant difference" not in told
    assert "right in the second run alone 10 rows" in told and "right in the first run alone 0 rows" in told
    assert "exact McNemar" in told and "accuracy on the same 60 sealed test rows" in told
    assert "base model" in told and "12" in told and told.count("Is it one? {text}") == 2
    assert len(re.findall("✗ ", told)) == 10 + 1, "each row that differs, and the legend"


def test_runs_that_answer_alike_have_a_page_too(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "one", BEFORE), finished(tmp_path / "two", BEFORE)
    page = render_comparison(compare_runs(one, two).for_page())
    assert ": no significant difference.</h1>" in page and "There is none" in page


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_browser_shows_it_whole_and_runs_no_text(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    before, after = pair(tmp_path, texts=TEXTS, labels=("a</script>", "<img src=x onerror='window.hurt = 1'>"))
    path = tmp_path / "page.html"
    path.write_text(render_comparison(compare_runs(before, after).for_page()), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: heard.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert "gains 16.7 points" in tab.inner_text("h1") and tab.locator("#rows tr").count() == 11
    # Names and numbers of the small table stand near each other.
    assert tab.evaluate("document.querySelector('#verdict table').offsetWidth") < 400
    tab.locator("#verdict .strip[data-tip]").first.hover()
    assert "66.7%" in tab.inner_text("#tip")
    before_switch = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before_switch
    assert tab.evaluate("window.hurt") is None and tab.locator("main img").count() == 0 and not heard
    context.close()
