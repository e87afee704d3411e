"""The page of a run that reads labels by probes: where the answer forms, what was known when, and the references."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from probe_runs import FIRST, REFERENCES, ROWS, probe_folder
from report_runs import HOSTILE, run_folder

from cotune.report.html.page import render_report, write_report
from cotune.report.html.sections.layers import layers_section, read_curves
from cotune.report.html.sections.lineage import lineage_section, map_section
from cotune.report.html.sections.prompts import read_prompts
from cotune.report.html.sections.record import read_record
from cotune.report.html.sections.seconds import read_course, seconds_section
from cotune.report.html.sections.training import training_section
from cotune.report.html.sections.verdict import verdict_section
from cotune.report.html.sections.waterfall import read_moves, waterfall_section


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return probe_folder(tmp_path_factory.mktemp("probe") / "run")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render_report(folder)


def verdict_of(folder: Path, to: Path, summary: dict[str, Any]) -> str:
    """The verdict's section of the same run with another summary, which is written ``to`` a folder."""
    for name in ("journal.jsonl", "config.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    (to / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    record = read_record(to)
    return verdict_section(record, read_prompts(record))


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"', 1)[1].split("</section>", 1)[0]


def test_layers_are_those_of_the_leading_prompts_frozen_and_tuned(folder: Path, page: str) -> None:
    record = read_record(folder)
    prompts = read_prompts(record)
    winner, seed, other = read_curves(record, prompts)
    assert (winner.prompt_id, seed.prompt_id) == (prompts.winner, prompts.seed) and other.prompt_id not in (
        winner.prompt_id,
        "",
    )
    assert winner.probes == {18: (0.75, 0.9), 20: (0.8, 0.71), 24: (0.78, 1.0)} and winner.chosen == 20
    assert [(p.layer, p.accuracy, p.log_loss, p.window) for p in winner.tuned] == [(20, 0.86, 0.5, (10, 20))]
    assert list(winner.ridge) == list(range(10, 31, 2))
    shown = section(page, "layers")
    assert "Where the answer forms" in shown
    assert "read after layer 20, tuned in layers 11 to 20" in shown and 'class="band"' in shown
    assert "frozen, layer 20: 80.0% (73.9 to 85.0, 200 rows)\nlog-loss 0.710\nthe layer that is read" in shown
    assert "tuned 12 steps in layers 11 to 20, layer 20: 86.0% (80.5 to 90.1, 200 rows)" in shown
    assert "<td>20</td><td>tuned 12 steps</td><td>86.0</td><td>0.500</td>" in shown, "the numbers stand in a table too"
    ends = [float(x) for x in re.findall(r'cx="([\d.]+)%"', shown)]
    assert ends and min(ends) >= 0 and max(ends) <= 100


def test_the_course_has_the_first_verdict_the_cycles_the_test_and_references(folder: Path, page: str) -> None:
    course = read_course(read_record(folder))
    assert [one.kind for one in course] == [
        *("race", "frozen", "frozen", "frozen", "verdict", "tuned", "tuned", "race", "frozen", "tuned"),
        *["test"] * 5,
    ]
    verdict = next(one for one in course if one.kind == "verdict")
    assert (verdict.seconds, verdict.score, verdict.ci, verdict.base) == (31.0, 0.8, (0.74, 0.85), True)
    assert [one.base for one in course if one.kind == "test"] == [True, True, True, False, False]
    shown = section(page, "seconds")
    assert "first verdict, read after layer 20: 80.0% (74.0 to 85.0)\nafter 00:31" in shown
    for told in (
        "TF-IDF with logistic regression: 60.0% (53.0 to 66.0)",
        "always the commonest label: 25.0%",
        "zero-shot (label words, no training)",
    ):
        assert shown.count(told) == 2, "as a line's tip and in the legend"
    assert re.search(r'class="tick y" x="79[^>]*dx="-6" dy="-6">test opened<', shown), "on the left of a late test"
    assert "Left of the line “test opened”" in shown
    assert "Best dev" not in page and 'id="search"' not in page, "tokens are not what such a run is judged by"


def test_frozen_and_tuned_are_compared_on_the_same_rows(folder: Path, page: str, tmp_path: Path) -> None:
    """The race's scores are cross-fitted on all labelled rows, and no change is told from them to held-out rows."""
    record = read_record(folder)
    prompts = read_prompts(record)
    frozen = {c.prompt_id: c.frozen for c in read_curves(record, prompts)}[prompts.winner]
    assert frozen and (frozen.layer, frozen.accuracy, frozen.log_loss, frozen.steps, frozen.window) == (20, 0.81, 0.65, 0, None)
    shown = section(page, "layers")
    assert "frozen, held-out rows, layer 20: 81.0% (75.0 to 85.8, 200 rows)\nlog-loss 0.650" in shown
    assert shown.count('class="link"') == 6, "three tuned prompts, in two plots"
    line = re.search(r'<polyline class="line winner" points="([\d.]+),', section(page, "seconds"))
    assert line and float(line[1]) == pytest.approx(1000 * 29.5 / (1.02 * 150), abs=0.1), (
        "begins with the held-out frozen probe"
    )
    journal = (folder / "journal.jsonl").read_text()
    used = tmp_path / "used"
    used.mkdir()
    (used / "journal.jsonl").write_text(journal.replace('"used": false', '"used": true'))
    named = read_record(used)
    assert [m.level for m in read_moves(named, read_prompts(named))][:2] == [0.64, 0.79], "tuned with the names, too"
    unfinished = probe_folder(tmp_path / "run", finished=False)
    path = unfinished / "journal.jsonl"
    lines = [one for one in path.read_text().splitlines() if json.loads(one)["kind"] != "tuned"]
    path.write_text("\n".join(lines) + "\n")
    early = read_record(unfinished)
    assert [m.level for m in read_moves(early, read_prompts(early))] == [0.66, 0.8], "before any held-out row was answered"


def test_arms_and_references_stand_together(page: str) -> None:
    shown = section(page, "verdict")
    assert "first prompt, base model, probe after layer 20" in shown
    lines = re.findall(r'<div class="row (base|tuned|reference)', shown)
    assert lines == ["base", "base", "base", "tuned", "tuned", "reference", "reference", "reference"]
    order = [shown.index(name) for name in ("Prompt alone", "Tuning alone", "Prompt, given tuning", "Synergy")]
    assert order == sorted(order), "what the prompt gains on frozen weights is told first"


def test_an_arm_that_is_not_tuned_is_not_called_so_on_the_page(folder: Path, tmp_path: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["arms"]["best_tuned"] |= {"adapter_id": "f" * 16, "steps": 0}
    summary["prompts_tuned"] = 2
    shown = verdict_of(folder, tmp_path, summary)
    told = "<b>best prompt</b> <span>winner’s prompt, base model, frozen (no tuning step paid off), probe after layer 20; "
    told += "also best tuned<"
    assert told in shown and "winner’s prompt, tuned" not in shown and "The four arms on" in shown
    assert "first prompt, tuned model" in shown
    answered = json.loads((folder / "test_rows.json").read_text())
    (tmp_path / "test_rows.json").write_text(json.dumps(answered), encoding="utf-8")
    embedded = re.search(r'id="data">(.*?)</script>', render_report(tmp_path), re.S)
    assert embedded
    columns = [column["name"] for column in json.loads(embedded[1])["tables"]["test"]["columns"]]
    assert columns == ["seed prompt", "prompt only", "best prompt", "seed tuned"], "one for each arm that differs"


def test_next_steps_are_those_of_the_terminal_with_their_commands_as_code(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    steps = ["Give it more: cotune run my.csv --budget 10m", "Give it more: the same command with --budget 10m"]
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "next": steps}), encoding="utf-8")
    card = render_report(tmp_path).split("What to do next", 1)[1].split("</div>", 1)[0]
    assert all(f"<code>cotune {command} {tmp_path}" in card for command in ("predict", "try", "view"))
    option = "<span class=word>--budget</span> 10m</code>"
    assert f"<code>cotune run my.csv {option}" in card and f"the same command with</bdi> <code>{option}" in card


def test_the_page_tells_what_tuning_gains_with_the_winners_prompt_if_only_it_was_tuned(folder: Path, tmp_path: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    arms = summary["arms"]
    arms["seed_tuned"] = dict(arms["seed_prompt"])
    summary["gains"]["tuning"] |= {"value": 0.0, "identical": True}
    summary["prompts_tuned"] = 1
    shown = verdict_of(folder, tmp_path, summary)
    assert "Tuning, winner’s prompt" in shown and "best tuned − best prompt" in shown
    assert "Synergy" not in shown and "Tuning alone" not in shown
    assert "first prompt, base model, frozen (it was not tuned), probe after layer 20; also seed tuned" in shown


def test_nothing_that_was_held_out_is_called_dev(folder: Path, page: str) -> None:
    record = read_record(folder)
    prompts = read_prompts(record)
    assert record.by_probe and record.dev_measure.name == "held-out accuracy"
    assert [(m.name, m.level) for m in read_moves(record, prompts)] == [
        ("seed prompt, frozen probe", 0.64),
        ("choosing among 4 prompts", 0.77),
        ("cycle 1: tuning for 12 steps", 0.82),
        ("cycle 2: a new prompt, tuned 12 steps", 0.86),
    ]
    for name in ("lineage", "training", "waterfall", "map"):
        assert " dev" not in section(page, name), name
    facts = prompts.by_id[prompts.winner]
    assert [(s.stage, s.cycle) for s in (*facts.raced, *facts.tuned)] == [("race", 2), ("frozen", 2), ("tune", 2)]
    assert "layers 11 to 20 on 150 rows" in section(page, "training")


def test_held_out_scores_by_the_metric_are_called_so(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "verdict":
            line["value"]["metric"] = "r2"
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "metric": "r2"}), encoding="utf-8")
    record, page = read_record(tmp_path), render_report(tmp_path)
    assert record.dev_measure.interval(0.8, ROWS) is None, "an explained variance is no share of rows"
    for name in ("lineage", "training", "waterfall", "map", "layers", "seconds"):
        shown = section(page, name)
        assert "ccuracy" not in shown and "percent right" not in shown, name
    assert "What changed the held-out R²" in section(page, "waterfall")
    assert "R² by layer, 200 labelled rows" in section(page, "layers") and "R², percent" in section(page, "layers")


def test_while_it_goes_on_the_first_verdict_leads(tmp_path: Path) -> None:
    page = render_report(probe_folder(tmp_path / "run", finished=False))
    shown = section(page, "verdict")
    assert f'First verdict <bdi dir="auto">{FIRST}</bdi>; a usable bundle is in best.' in shown
    course = section(page, "seconds")
    assert "TF-IDF with logistic regression has 58.0 on the labelled rows" in course
    assert "test opened" not in course and "sealed test" not in course, "no line divides the plot yet"
    assert "Where the answer forms" in page


def killed_in_the_test(folder: Path, to: Path, steps: int, metric: str = "macro_f1") -> Path:
    """A run that was killed when its arms had been tested; ``steps`` are those of the winner."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max(place for place, line in enumerate(lines) if line["kind"] == "arm")
    winner = next(line["value"]["arms"]["best_tuned"] for line in lines if line["kind"] == "confirm")
    for line in lines:
        if line["kind"] == "confirm":
            seed = {**winner, "prompt_id": "seed", "decision": {"kind": "probe"}, "steps": 0, "adapter_id": "f" * 16}
            arms = {"seed_prompt": seed, "seed_tuned": seed}
            best = {**winner, "decision": {"kind": "probe"}, "steps": 0, "adapter_id": "a" * 16}
            tuned = {**best, "steps": steps, "adapter_id": "b" * 16} if steps else best
            line["value"]["arms"] = arms | {"prompt_only": best, "best_prompt": best, "best_tuned": tuned}
        if line["kind"] == "start":
            line["value"]["metric"] = metric
        if line["kind"] == "arm":
            name = line["value"]["name"]
            line["value"]["candidate_id"] = "s" if "seed" in name else "b" if steps and name == "best_tuned" else "a"
    to.mkdir()
    (to / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[: last + 1]), encoding="utf-8")
    return to


def test_arms_are_told_by_their_weights_and_with_intervals_before_there_is_a_summary(folder: Path, tmp_path: Path) -> None:
    shown = section(render_report(killed_in_the_test(folder, tmp_path / "frozen", 0)), "verdict")
    assert "This run has not ended yet" in shown and "The two arms on 40 sealed test rows" in shown
    assert "first prompt, base model, frozen; also seed tuned" in shown
    assert "winner’s prompt, base model, frozen; also prompt only, best tuned" in shown
    assert "Macro F1 in percent with 95% intervals" in shown
    killed = read_record(killed_in_the_test(folder, tmp_path / "tuned", 12, metric="accuracy"))
    tested = [one for one in read_course(killed) if one.kind == "test"]
    assert [one.what for one in tested] == ["test, best prompt", "test, seed prompt", "test, best tuned"]
    assert [one.base for one in tested] == [True, True, False] and all(one.prompt_id for one in tested)
    assert all(one.ci is not None and one.ci[0] < one.score < one.ci[1] for one in tested)


def test_while_it_goes_on_the_best_is_that_of_the_lowest_log_loss(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    place = next(n for n, line in enumerate(lines) if line["kind"] == "cycle")
    journal, shown = tmp_path / "journal.jsonl", []
    for loss in (0.55, 0.65):
        frozen = {**lines[place - 1]["value"], "stage": "frozen", "steps": 0, "score": 0.7, "log_loss": loss}
        more = [*lines[:place], {**lines[place - 1], "value": frozen}]
        journal.write_text("".join(json.dumps(line) + "\n" for line in more), encoding="utf-8")
        shown.append(section(render_report(tmp_path), "verdict"))
    assert "Best on held-out rows so far: 70.0% (63.3 to 75.9, 200 rows) on the base model" in shown[0]
    assert "Best on held-out rows so far: 82.0% (76.1 to 86.7, 200 rows) after 12 steps of tuning" in shown[1]


def test_runs_by_words_have_none_of_it(tmp_path: Path) -> None:
    page = render_report(run_folder(tmp_path / "run"))
    assert not {'id="layers"', 'id="seconds"', "Where the answer forms"} & {
        found for found in ('id="layers"', 'id="seconds"', "Where the answer forms") if found in page
    }
    assert 'id="search"' in page


@pytest.mark.parametrize("odd", [None, "x", [1], {"a": None}, -1.5])
def test_odd_values_make_no_section_fail(folder: Path, tmp_path: Path, odd: Any) -> None:
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["references"] = {**REFERENCES, "tfidf": odd}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    names = ("layers", "by_layer", "ridge", "rows", "best", "scores", "window", "layer", "score", "text", "ci", "prompt_id")
    for name in names:
        changed = [json.loads(line) for line in lines]
        for line in changed:
            if name in line["value"] and line["kind"] not in ("pool", "start", "confirm"):
                line["value"][name] = odd
        (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed), encoding="utf-8")
        record = read_record(tmp_path)
        prompts = read_prompts(record)
        for made in (verdict_section, lineage_section, map_section, training_section, waterfall_section):
            assert made(record, prompts)
        layers_section(record, prompts)
        seconds_section(record, prompts)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_browser_shows_it(browser: Any, tmp_path: Path, scheme: str, width: int) -> None:
    path = write_report(probe_folder(tmp_path / "run", texts=HOSTILE))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    heard: list[str] = []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: heard.append(request.url) if not request.url.startswith("file:") else None)
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("window.hurt") is None
    dot = tab.locator("#seconds circle[data-prompt]").first
    dot.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#panel").is_visible()
    tab.get_by_role("button", name="Close").click()
    for name in ("layers", "seconds"):
        box = tab.locator(f"#{name} svg.area").first.bounding_box()
        assert box and box["width"] > 200 and box["x"] >= 0
    fill = tab.evaluate("getComputedStyle(document.querySelector('#layers circle.hollow')).fill")
    card = tab.evaluate("getComputedStyle(document.querySelector('#layers figure')).backgroundColor")
    assert fill == card, "frozen points are hollow in both themes"
    assert not heard
    context.close()
