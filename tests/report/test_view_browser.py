"""The served page in a real browser: it renews itself under the reader's eyes and leaves everything where it was."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from probe_runs import probe_folder
from view_runs import GrowingRun, page_served, viewing

MARKED = "document.querySelector('main').marked === true"


class Reader:
    """A page of the server with what it asked for and complained about."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type != "log" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.url = url
        self.page.goto(self.url)
        # A page that was loaded anew would have lost this.
        self.page.evaluate("document.querySelector('main').marked = true")

    def wait(self, what: str) -> None:
        # As a function: the page's policy refuses to evaluate text.
        self.page.wait_for_function(f"() => {what}", timeout=120_000)

    def wait_for_text(self, selector: str, text: str) -> None:
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
            arg=[selector, text],
            timeout=120_000,
        )

    def top(self, selector: str) -> float:
        return float(self.page.locator(selector).first.bounding_box()["y"])

    def check(self) -> None:
        """Nobody but the server was asked, nothing went wrong."""
        assert {url for url in self.requests if not url.startswith("data:")} == {self.url, f"{self.url}state"}
        assert self.errors == []


@contextlib.contextmanager
def reading(browser: Any, run: GrowingRun, **options: Any) -> Iterator[Reader]:
    with page_served(run.folder) as (url, _):
        reader = Reader(browser, url, **options)
        try:
            yield reader
        finally:
            reader.page.close()


def events_until(run: GrowingRun, kind: str, count: int = 1) -> int:
    """How many lines lie before the ``count``-th of a kind ends."""
    places = [place for place, line in enumerate(run.lines) if f'"kind": "{kind}"' in line]
    return places[count - 1] + 1


def test_no_section_of_the_header_is_cut_beside_what_tells_the_runs_state(browser: Any, tmp_path: Path) -> None:
    folder = probe_folder(tmp_path / "run")
    with page_served(folder) as (url, _):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        assert page.inner_text("#live") == "Ended" and page.locator("nav a").count() == 13
        assert (
            page.evaluate("() => { const nav = document.querySelector('nav'); return nav.scrollWidth - nav.clientWidth; }") == 0
        )
        page.close()


def test_what_is_new_appears_and_the_reader_keeps_the_place(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=0, rows=120)
    run.grow(events_until(run, "cycle"))
    with reading(browser, run) as reader:
        page = reader.page
        assert page.inner_text("#live") == "Live" and page.locator("#lineage button.branch").count() == 4
        page.select_option("#matrix-view", "wrong")
        page.select_option("#matrix-label", label="fruit (40)")
        page.fill("#matrix-text", "another")
        count = page.inner_text("#matrix-count")
        assert count != "120 of 120 rows"
        page.evaluate("document.getElementById('matrix-table').same = true")
        page.evaluate("scrollTo({top: document.getElementById('matrix').offsetTop - 100, behavior: 'instant'})")
        page.locator("#matrix-text").focus()
        before = reader.top("#matrix")
        height = page.evaluate("document.documentElement.scrollHeight")
        run.grow(events_until(run, "pool", 2))
        run.append(run.lines[run.written][:40])
        reader.wait("document.querySelectorAll('#lineage button.branch').length === 8")
        assert page.evaluate("document.documentElement.scrollHeight") > height + 100
        assert abs(reader.top("#matrix") - before) < 2
        assert page.inner_text("#matrix-count") == count and page.input_value("#matrix-text") == "another"
        assert page.evaluate("document.activeElement.id") == "matrix-text"
        assert page.evaluate("document.getElementById('matrix-table').same") is True and page.evaluate(MARKED)
        reader.check()


def test_the_end_of_a_run_shows_the_verdict(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=0, rows=60)
    run.grow(events_until(run, "cycle", 2))
    with reading(browser, run) as reader:
        page = reader.page
        page.select_option("#matrix-view", "differ")
        pattern = page.locator("#matrix-patterns button").nth(1)
        name = pattern.get_attribute("data-pattern")
        pattern.click()
        count = page.inner_text("#matrix-count")
        page.select_option("[data-switch=map]", "2")
        # More rows come, so the table is made anew; the choices are not.
        rows = (run.folder / "test_rows.json").read_text()
        rows = rows.replace('"text": "', '"text": "new ').replace("a plain row", "a new row")
        run.replace(run.folder / "test_rows.json", rows)
        run.end()
        reader.wait_for_text("h1", "the searched prompt gains 6.0 points.")
        assert page.inner_text("#live") == "Ended" and page.evaluate(MARKED)
        assert page.inner_text("#matrix-count") == count and page.input_value("#matrix-view") == "differ"
        assert page.locator(f"#matrix-patterns button[data-pattern='{name}']").get_attribute("aria-pressed") == "true"
        assert "a new row" in page.inner_text("#matrix-table")
        assert page.locator("#map [data-choice='2']").is_visible() and not page.locator("#map [data-choice='1']").is_visible()
        assert page.locator("[data-copy]").first.is_visible()
        page.locator("#matrix-table .open").first.click()
        assert "a new row" in page.inner_text("#panel") or "another one" in page.inner_text("#panel")
        reader.check()


def test_details_panel_and_focus_outlive_a_renewal(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=0)
    run.end()
    with reading(browser, run) as reader:
        page = reader.page
        page.locator("details.reading summary").click()
        branch = page.locator("#lineage button.branch").nth(2)
        prompt = branch.get_attribute("data-prompt")
        branch.click()
        told = page.inner_text("#panel")
        # The prompt in the panel did a little better, so that its line is made anew under it.
        page.evaluate("id => { document.querySelector(`#lineage [data-prompt='${id}']`).old = true }", prompt)
        events = [json.loads(line) for line in run.lines]
        next(event for event in events if event["kind"] == "race")["value"]["scores"][prompt] += 0.013
        run.replace(run.journal, "".join(json.dumps(event) + "\n" for event in events))
        summary = run.folder / "summary.json"
        run.replace(summary, summary.read_text().replace("gains 6.0 points", "gains 6.5 points"))
        reader.wait_for_text("h1", "gains 6.5 points")
        reader.wait(f"!document.querySelector(\"#lineage [data-prompt='{prompt}']\").old")
        assert page.locator("details.reading").get_attribute("open") is not None
        assert page.locator("#panel").is_visible() and page.inner_text("#panel") == told
        page.keyboard.press("Escape")
        reader.wait(f"document.activeElement.dataset.prompt === '{prompt}'")
        page.evaluate("document.activeElement.old = true")
        run.replace(run.journal, "".join(run.lines))
        reader.wait(f"!document.querySelector(\"#lineage [data-prompt='{prompt}']\").old")
        assert page.evaluate("document.activeElement.dataset.prompt") == prompt
        reader.check()


def test_a_selection_is_not_taken_away(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=8)
    with reading(browser, run) as reader:
        page = reader.page
        page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
        run.grow(len(run.lines) - 6)
        page.wait_for_timeout(3000)
        assert page.evaluate("getSelection().toString()") == "This run has not ended yet."
        assert page.locator("#lineage button.branch").count() < 8
        page.evaluate("getSelection().removeAllRanges()")
        reader.wait("document.querySelectorAll('#lineage button.branch').length === 8")
        reader.check()


def test_a_run_that_has_not_begun_shows_up_when_it_does(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=0)
    run.journal.unlink()
    with reading(browser, run) as reader:
        assert "Nothing has been written yet" in reader.page.inner_text("h1")
        run.append("".join(run.lines[:6]))
        reader.wait_for_text("h1", "This run has not ended yet.")
        reader.wait_for_text("#live", "Live")
        assert reader.page.locator("#theme").is_visible()
        reader.check()


def test_errors_stand_in_a_bar_and_go_away(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=8)
    with reading(browser, run) as reader:
        page = reader.page
        run.journal.rename(tmp_path / "away")
        reader.wait_for_text("#live-error", "not a run's folder")
        assert page.locator("#lineage button.branch").count() > 0
        (tmp_path / "away").rename(run.journal)
        reader.wait("document.getElementById('live-error').hidden")
        reader.check()


def test_a_server_that_has_gone_is_told(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=8)
    with viewing(run.folder) as viewer:
        reader = Reader(browser, viewer.url)
        assert viewer.stop() == (0, "")
        reader.wait_for_text("#live", "Not connected")
        assert "does not answer" in reader.page.inner_text("#live-error")
        with viewing(run.folder, "--port", str(viewer.port)):
            reader.wait_for_text("#live", "Live")
            assert not reader.page.locator("#live-error").is_visible()
        reader.page.close()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another site, which a browser may hold open beside the report."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>elsewhere</title>"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_other_sites_get_nothing(browser: Any, tmp_path: Path, elsewhere: str) -> None:
    run = GrowingRun(tmp_path / "run", events=8)
    with page_served(run.folder) as (url, port):
        page = browser.new_page()
        # A name of the other site that leads to this machine, as after DNS rebinding.
        answer = page.goto(f"http://evil.test:{port}/")
        assert answer.status == 421 and "ended" not in page.content()
        page.goto(elsewhere)
        ask = "async ([url, mode]) => { try { return (await fetch(url, {mode})).type } catch { return 'refused' } }"
        assert page.evaluate(ask, [f"{url}state", "cors"]) == "refused"
        assert page.evaluate(ask, [url, "no-cors"]) == "refused"
        framed = """url => new Promise(done => {
            const frame = document.createElement("iframe");
            frame.onload = () => { try { done(frame.contentDocument ? "empty" : "kept out") } catch { done("kept out") } };
            frame.src = url; document.body.append(frame); })"""
        assert page.evaluate(framed, url) == "kept out"
        assert "chrome-error" in page.frames[1].url
        page.close()


def test_nothing_sticks_out(browser: Any, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=8)
    with reading(browser, run) as reader:
        run.journal.unlink()
        reader.wait_for_text("#live-error", "not a run's folder")
        for width in (390, 1280):
            reader.page.set_viewport_size({"width": width, "height": 800})
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= width
