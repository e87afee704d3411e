"""The page of a run whose answers are written late: where the search knew no scores, its sections show the log-loss on dev."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import run_folder

from cotune.report.html import render_report, write_report
from cotune.report.html.measure import DevLogLoss, DevMeasure, dev_measure
from cotune.report.html.sections.prompts import read_prompts
from cotune.report.html.sections.record import read_record
from cotune.report.html.sections.training import read_trials
from cotune.report.html.sections.waterfall import read_moves, waterfall_section

SHOWN = ("lineage", "map", "training", "search", "waterfall")
LESS = "less is better"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("late") / "run", late=True)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render_report(folder)


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"', 1)[1].split("</section>", 1)[0]


def numbers(markup: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, markup)]


def test_every_section_on_dev_shows_the_log_loss_and_says_which_way_is_better(page: str) -> None:
    for name in SHOWN:
        shown = section(page, name)
        assert "class=empty" not in shown, name
        assert "nats" in shown and LESS in shown and "log-loss" in shown.lower(), name
        assert "percent" not in re.sub(r"<[^>]+>", "", shown), name


def test_a_run_with_scores_says_nothing_of_nats(tmp_path: Path) -> None:
    page = render_report(run_folder(tmp_path / "run"))
    for name in SHOWN:
        told = section(page, name).replace("loss in nats, running mean", "")
        assert "nats" not in told and LESS not in told, name


def test_the_search_falls_to_the_least_log_loss(page: str) -> None:
    shown = section(page, "search")
    assert "Best dev log-loss by tokens spent" in shown and 'aria-label="Best dev log-loss by tokens"' in shown
    tips = re.findall(r'class="dot (raced|tuned)"[^>]*data-tip="[^"]*?log-loss ([\d.]+) nats a token \((\d+) rows\)', shown)
    assert [(kind, float(level)) for kind, level, _ in tips] == [
        *(("raced", 0.7), ("tuned", 0.26), ("tuned", 0.06)),
        *(("raced", 0.7), ("tuned", 0.22), ("tuned", 0.02)),
    ]
    # A dot is named for those who do not see it as its tip tells it.
    assert len(re.findall(r'aria-label="[^"]*log-loss [\d.]+ nats', shown)) == 6
    line = re.search(r'<polyline class="line winner" points="([^"]*)"', shown)
    assert line
    heights = [float(point.split(",")[1]) for point in line[1].split()]
    # The second measurement of a cycle is the better one; downwards on the screen is a larger number.
    assert heights == sorted(heights) and len(set(heights)) == 3
    assert "no intervals" in shown


def test_training_shows_dev_by_step(folder: Path, page: str) -> None:
    record = read_record(folder)
    assert [[(look.steps, look.level) for look in trial.looks] for trial in read_trials(record)] == [
        [(10, 0.26), (20, 0.22)],
        [(10, 0.06), (20, 0.02)],
    ]
    shown = section(page, "training")
    assert "Dev log-loss by step" in shown and shown.count(f"nats a token, {LESS}") == 1
    assert re.search(r'data-tip="[^"]*\n20 steps: log-loss 0.020 nats a token \(50 rows\)"', shown)


def test_the_waterfall_falls_in_nats_without_intervals(folder: Path, page: str) -> None:
    record = read_record(folder)
    moves = read_moves(record, read_prompts(record))
    assert [move.level for move in moves] == pytest.approx([0.7, 0.5, 0.06, 0.02])
    shown = section(page, "waterfall")
    assert re.findall(r'<b class="up">(.*?)</b>', shown) == ["−0.200", "−0.440", "−0.040"]
    assert "0.700</b> <span class=unit> nats" in shown and "→ 0.020 nats" in shown
    assert "points" not in shown and "Without intervals, for single rows’ losses are not recorded" in shown


def test_what_the_metric_chose_at_the_end_may_have_a_worse_log_loss(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", late=True)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "confirm":
            line["value"]["dev"]["best_tuned"]["log_loss"] = 0.05
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_record(folder)
    last = read_moves(record, read_prompts(record))[-1]
    assert (last.name, last.level) == ("the best score among the finalists’ answers kept", 0.05)
    assert '<b class="down">+0.030</b>' in waterfall_section(record, read_prompts(record))


def test_rows_that_finalists_had_right_give_no_interval_of_nats(tmp_path: Path) -> None:
    from cotune.evaluate.packing import pack_rows

    folder = run_folder(tmp_path / "run", late=True)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["metric"] = "accuracy"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").unlink()
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "confirm":
            for place, arm in enumerate(("seed_prompt", "prompt_only")):
                line["value"]["dev"][arm]["correct"] = pack_rows([1] * (20 + place) + [0] * (30 - place))
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_record(folder)
    assert record.metric == "accuracy"
    assert " to " not in "".join(re.findall(r'class="number">(.*?)</div>', waterfall_section(record, read_prompts(record))))


def test_the_map_is_as_orange_as_the_log_loss_is_small(page: str) -> None:
    shown = section(page, "map")
    seen = re.findall(r'<circle class="place s(\d)( hollow)?[^"]*"[^>]*data-tip="[^"]*?log-loss ([\d.]+) nats a token', shown)
    assert len(seen) == 8
    shades = sorted((float(level), int(shade)) for shade, _, level in seen)
    assert [shade for _, shade in shades] == sorted((shade for _, shade in shades), reverse=True)
    assert shades[0][1] == 6 and shades[-1][1] == 0
    worst, best = re.search(r"<span>([\d.]+)</span><span class=\"ramp\">.*?</span><span>([\d.]+)</span><span>", shown).groups()  # type: ignore[union-attr]
    assert (float(worst), float(best)) == (0.7, 0.58) and f"log-loss on dev in nats a token, {LESS}" in shown


def test_lineage_has_the_log_loss_of_each_and_the_score_of_who_wrote(folder: Path, page: str) -> None:
    prompts = read_prompts(read_record(folder))
    winner, seed = prompts.by_id[prompts.winner], prompts.by_id[prompts.seed]
    measure = read_record(folder).dev_measure
    assert winner.best(measure) == winner.tuned[-1] and winner.tuned[-1].level == pytest.approx(0.02)
    assert winner.tuned[-1].score == 0.61 and all(s.score is None for s in (*seed.tuned, *seed.raced, *winner.raced))
    shown = section(page, "lineage")
    told = numbers(shown, r"<b>([\d.]+)</b> <span class=unit>nats")
    assert len(told) == 8 and told[0] == 0.22 and min(told) == 0.02
    assert shown.count("score 61.0%") == 1 and "token F1 61.0% (50 rows)" in shown
    assert "–" not in shown
    places = [float(place) for place in re.findall(r'<circle class="mark lineage[^>]* cx="([\d.]+)%"', shown)]
    assert min(places) < 20 < 80 < max(places)


@pytest.mark.parametrize("other", [{"adapter_id": "x"}, {"rows": 20}, {"stage": "slices"}])
def test_answers_of_other_weights_or_to_other_rows_give_no_score(tmp_path: Path, other: dict[str, object]) -> None:
    folder = run_folder(tmp_path / "run", late=True)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        line["value"] |= other if line["kind"] == "write" else {}
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = read_prompts(read_record(folder))
    assert all(s.score is None for s in prompts.by_id[prompts.winner].tuned)


def test_the_panel_has_the_log_loss_first(page: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data = json.loads(found[1])
    assert data["dev"]["title"] == f"Log-loss on dev in nats a token, {LESS}"
    assert data["dev"]["columns"][0] == "log-loss"
    scores = [one for prompt in data["prompts"].values() for one in prompt["scores"] if "format" not in prompt["facts"][1][1]]
    assert scores and all(one["log_loss"] is not None and one["ci"] is None for one in scores)


def test_while_it_goes_on_the_best_so_far_is_the_least_log_loss(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", late=True, finished=False)
    shown = section(render_report(folder), "verdict")
    assert "Best on dev so far: log-loss 0.060 nats a token (50 rows) after 10 steps of tuning" in shown


def test_the_measure_is_the_score_as_soon_as_one_is_known() -> None:
    tuned = {"kind": "tuned", "value": {"score": None, "log_loss": 0.4}}
    race = {"kind": "race", "value": {"scores": {"p": None, "q": None}, "log_losses": {"p": 0.3, "q": None}}}
    scored = {"kind": "race", "value": {"scores": {"p": 0.5}, "log_losses": {"p": None}}}
    written = {"kind": "write", "value": {"score": 0.5, "log_loss": 0.1}}
    for events, kind in (
        ([], DevMeasure),
        ([written], DevMeasure),
        ([tuned], DevLogLoss),
        ([race, written], DevLogLoss),
        ([scored], DevMeasure),
        ([tuned, scored], DevMeasure),
        ([{"kind": "race", "value": None}, {"kind": "tuned"}], DevMeasure),
    ):
        assert type(dev_measure(events, "token_f1")) is kind, events


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_at_both_sizes(browser: Any, folder: Path, scheme: str) -> None:
    width = 1280 if scheme == "light" else 390
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(write_report(folder).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # No ring of the map is of the colour of what is behind it.
    rings = page.eval_on_selector_all(
        "#map .place.hollow", "rings => rings.map(ring => [getComputedStyle(ring).stroke, getComputedStyle(ring).fill])"
    )
    assert len(rings) == 4 and all(stroke != fill for stroke, fill in rings)
    page.locator("#lineage button.branch.winner").click()
    panel = page.locator("#panel")
    assert f"Log-loss on dev in nats a token, {LESS}" in panel.inner_text()
    cells = panel.locator(".panel-scores tr").last.locator("td").all_inner_texts()
    assert cells[:4] == ["tuned 20 steps, cycle 2", "0.020", "50", "61.0"]
    heights = panel.locator(".panel-scores td:nth-child(2)").evaluate_all("cells => cells.map(cell => cell.offsetHeight)")
    assert max(heights) < 80
    page.keyboard.press("Escape")
    page.locator("#search circle").first.hover()
    assert "log-loss 0.700 nats a token" in page.inner_text("#tip")
    assert errors == []
    page.close()
