"""The report's page without a browser: its sections, its policy, its size, and texts that try to break it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_runs import probe_folder
from report_runs import ARMS, HOSTILE, run_folder

from cotune.errors import InputError
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.report.html import render_report, write_report
from cotune.report.html.markup import cut, embedded_json, signed_points
from cotune.report.html.plot import nice_ticks
from cotune.report.html.sections.errors import _chance_error
from cotune.report.html.sections.health import task_yaml
from cotune.report.html.sections.prompts import PromptFacts, Prompts, read_prompts, word_diff
from cotune.report.html.sections.record import read_record
from cotune.report.html.sections.training import dev_lines, read_trials
from cotune.report.html.sections.verdict import verdict_section
from cotune.report.html.sections.waterfall import read_moves, waterfall_section
from cotune.run_files import JOURNAL, SUMMARY

SECTIONS = (
    *("verdict", "lineage", "map", "matrix", "errors", "slices", "robustness"),
    *("training", "search", "waterfall", "health", "reproduce"),
)


class Outline(HTMLParser):
    """Counts elements, keeps attributes and the texts of scripts and styles; checks that what is opened is closed."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "line", "circle", "rect", "polyline"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]].append(data)


def data_of(page: str) -> dict:
    """The data embedded in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def section(page: str, name: str) -> str:
    """One section's markup."""
    return page.split(f'<section id="{name}"', 1)[1].split("</section>", 1)[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = run_folder(tmp_path_factory.mktemp("page") / "run")
    return write_report(folder).read_text(encoding="utf-8")


def test_the_page_has_all_sections_in_order_and_is_well_formed(page: str) -> None:
    outline = Outline(page)
    assert not outline.open
    assert re.findall(r'<section id="([a-z]+)"', page) == list(SECTIONS)
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name in SECTIONS:
        assert f'href="#{name}"' in page
        assert "class=empty" not in section(page, name), name


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(page: str) -> None:
    outline = Outline(page)
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    (style,), (_, script) = outline.inside["style"], outline.inside["script"]
    for name, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    names = {name for name, _ in outline.attributes}
    # The policy would refuse these, so a page that has them would look or work differently from what was meant.
    assert not [name for name in names if name.startswith("on") or name == "style"]
    addresses = {value or "" for name, value in outline.attributes if name in ("src", "href", "action", "data")}
    assert all(address.startswith(("#", "data:image/svg+xml,")) for address in addresses)


def test_intervals_are_no_claim_where_the_noise_of_the_machine_could_make_the_gain(tmp_path: Path, page: str) -> None:
    folder = run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["gains"]["tuning"] |= {"within_noise": True}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    record = read_record(folder)
    shown = verdict_section(record, read_prompts(record))
    assert "significant difference, where it is not within the noise" in shown
    assert '<span class="told quiet">within the noise of this machine, ' in shown
    assert "leaves out zero is a significant difference." in section(page, "verdict")


def test_a_run_with_one_arm_has_no_figure_of_gains(tmp_path: Path, page: str) -> None:
    folder = run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for gain in summary["gains"].values():
        gain |= {"value": 0.0, "identical": True}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    record = read_record(folder)
    told = verdict_section(record, read_prompts(record))
    for words in ("What was gained", "paired gains below"):
        assert words in section(page, "verdict") and words not in told


def test_the_verdict_tells_arms_gains_and_what_to_do(page: str) -> None:
    told = section(page, "verdict")
    assert "the searched prompt gains 6.0 points." in re.sub(r"<[^>]+>", "", told.split("</h1>")[0])
    for shown in (
        "best tuned",
        "82.0 to 92.0",
        "p = 0.040",
        "+1.0 to +11.0",
        "no significant difference",
        "88.0",
        "1 min 01 s",
        "opened 4 times before",
    ):
        assert shown in told, shown
    assert "More test rows would narrow the interval." in told
    assert told.count('class="mark') == len(ARMS) + 5


def test_formats_are_dots_that_open_their_wording(page: str) -> None:
    section = page.split('<section id="robustness"')[1].split("</section>")[0]
    assert "less sensitive" in section
    dots = re.findall(r'<circle class="dot (raced|tuned)"[^>]* data-prompt="(\w+)" tabindex="0" role="button"', section)
    assert [kind for kind, _ in dots] == ["raced"] * 4 + ["tuned"] * 4
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    for _, prompt_id in dots:
        shown = data["prompts"][prompt_id]
        assert shown["text"] and [score["what"] for score in shown["scores"]] == ["before tuning", "after tuning"]
        assert shown["diff"] and shown["parent"]
    # They are no part of the search.
    assert all(prompt_id not in page.split('<section id="lineage"')[1].split("</section>")[0] for _, prompt_id in dots)
    assert "1 of 48" in page.split('<section id="reproduce"')[1]


@pytest.mark.parametrize(
    "found", [{"skipped": "no <room>"}, None, {"base": 3, "prompts": [{}]}, {"n": "x", "base": {"scores": "y"}}]
)
def test_formats_that_are_missing_or_odd_are_told(tmp_path: Path, found: object) -> None:
    folder = run_folder(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("robustness", "noise"):
        summary[key] = found
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "journal.jsonl").unlink()
    page = render_report(folder)
    assert "is not known" in page.split('<section id="robustness"')[1].split("</section>")[0]
    assert "<room>" not in page


def test_the_splits_of_an_unfinished_run_keep_their_order(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", finished=False)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    sorted_keys = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (folder / "journal.jsonl").write_text(sorted_keys)
    assert "100 train, 50 dev, " in render_report(folder)


def test_an_unfinished_run_is_told_as_such(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", finished=False)
    with (folder / "journal.jsonl").open("a") as stream:
        stream.write('{"kind": "tuned", "val')
    page = render_report(folder)
    assert not Outline(page).open
    assert "This run has not ended yet" in page and "Best on dev so far" in page
    assert "cannot be read" not in page, "a torn last line is what a run that goes on leaves behind"
    assert "class=empty" in section(page, "matrix")
    # A summary of an earlier run does not make this one finished.
    (folder / "summary.json").write_text('{"verdict": "Old."}')
    assert "Old." not in render_report(folder)


def test_who_left_a_race_early_is_not_called_the_best_so_far(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", finished=False)
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    race = next(i for i, event in enumerate(events) if event["kind"] == "race")
    value = events[race]["value"]
    first = value["ranking"][0]
    value["rows"] = {i: 50 if i == first else 16 for i in value["ranking"]}
    value["scores"] = {i: 0.4 if i == first else 0.9 for i in value["ranking"]}
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[: race + 1]))
    shown = section(render_report(folder), "verdict")
    assert "Best on dev so far: 40.0% (27.6 to 53.8, 50 rows) on the base model" in shown


def test_a_report_written_just_before_the_run_is_done_tells_its_verdict(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    assert '"done"' in lines[-1]
    (folder / "journal.jsonl").write_text("".join(lines[:-1]))
    assert "the searched prompt gains 6.0 points" in render_report(folder)


@pytest.mark.parametrize(
    ("optimism", "told"),
    [(0.03, "3.0 points higher than on the test"), (-0.033, "3.3 points lower than"), (0.0, "as on the test")],
)
def test_how_far_dev_flatters_is_told_without_a_sign(tmp_path: Path, optimism: float, told: str) -> None:
    folder = run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["selection"]["optimism"] = optimism
    (folder / "summary.json").write_text(json.dumps(summary))
    assert f"prompts scored {told}" in render_report(folder)


def test_inputs_of_several_fields_are_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", rows=2)
    rows = json.loads((folder / "test_rows.json").read_text())
    rows["rows"][0]["input"] = {"title": "Late", "body": "Where is it?"}
    rows["rows"][1]["input"] = {"text": "Only this"}
    (folder / "test_rows.json").write_text(json.dumps(rows))
    shown = [row["text"] for row in data_of(render_report(folder))["tables"]["test"]["rows"]]
    assert shown == ["title: Late\nbody: Where is it?", "Only this"]


@pytest.mark.parametrize("events", [0, 1, 2, 3, 5, 6, 8, 13])
def test_every_beginning_of_a_journal_gives_a_page(tmp_path: Path, events: int) -> None:
    folder = run_folder(tmp_path / "run", finished=False, prompts=4)
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(lines[:events]))
    (folder / "config.json").unlink()
    page = write_report(folder).read_text(encoding="utf-8")
    assert not Outline(page).open
    assert re.findall(r'<section id="([a-z]+)"', page) == list(SECTIONS)


def test_what_is_damaged_is_left_out_and_told(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    lines = (folder / "journal.jsonl").read_text().splitlines()
    lines[5] = "{not json"
    odd = ['{"kind": "race", "value": {"scores": [1], "rows": 3, "cycle": "x"}}', '{"kind": "tuned", "value": null}', "[]"]
    odd += ['{"kind": "train", "value": {"losses": "x"}}', '{"kind": "pool", "value": {"proposals": [1], "places": [[1]]}}']
    (folder / "journal.jsonl").write_text("\n".join(lines[:8] + odd + lines[8:]) + "\n")
    rows = json.loads((folder / "test_rows.json").read_text())
    rows["rows"][3]["gold"] = 99
    rows["rows"][4]["probabilities"]["best_tuned"] = [0.1]
    (folder / "test_rows.json").write_text(json.dumps(rows))
    page = render_report(folder)
    assert "1 line(s) of the journal cannot be read" in page
    assert "1 row(s) of test_rows.json" in page
    assert len(data_of(page)["tables"]["test"]["rows"]) == 39
    assert "probabilities are not recorded for every row" in section(page, "errors")
    (folder / "summary.json").write_text("{")
    assert "summary.json cannot be read" in render_report(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [run_folder, probe_folder])
def test_numbers_of_any_size_give_a_page(tmp_path: Path, make: Callable[..., Path]) -> None:
    folder = make(tmp_path / "run", rows=6, prompts=5, dev=6)
    files = {name: (folder / name).read_text() for name in (JOURNAL, SUMMARY)}
    names = sorted({name for text in files.values() for name in re.findall(r'"(\w+)": (?:[{]"\w+": |\[)?-?[0-9]', text)})
    assert {"active_s", "rows", "scores", "value"} <= set(names)

    def huge(value: Any, these: Sequence[str], here: bool = False) -> Any:
        if isinstance(value, dict):
            return {key: huge(inner, these, here or key in these) for key, inner in value.items()}
        if isinstance(value, list):
            return [huge(inner, these, here) for inner in value]
        return 1e308 if here and isinstance(value, (int, float)) and not isinstance(value, bool) else value

    # A page takes a tenth of a second, and there are a hundred names: three at a time.
    for these in (names[start : start + 3] for start in range(0, len(names), 3)):
        for file, text in files.items():
            lines = [json.dumps(huge(json.loads(line), these)) for line in text.splitlines()]
            (folder / file).write_text("\n".join(lines) + "\n")
        assert not Outline(render_report(folder)).open, these


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", rows=24, prompts=17, texts=HOSTILE, labels=("a</script>", "<b>", "'\"&"))
    page = render_report(folder)
    plain = render_report(run_folder(tmp_path / "plain", rows=24, prompts=17, texts=tuple("abcdefgh"), labels=("a", "b", "c")))
    found, usual = Outline(page), Outline(plain)
    assert not found.open
    assert set(found.tags) == set(usual.tags) and "img" not in found.tags
    assert found.tags.count("script") == 2
    assert {name for name, _ in found.attributes} == {name for name, _ in usual.attributes}
    assert not re.search("[\u202a-\u202e\u2028\u2029\ud800-\udfff\x1b]", page)
    assert page.encode("utf-8")
    rows = data_of(page)["tables"]["test"]["rows"]
    assert rows[0]["text"] == HOSTILE[0] and rows[1]["text"] == HOSTILE[1]
    assert rows[6]["missing"] > 90_000
    assert data_of(page)["tables"]["test"]["labels"] == ["a</script>", "<b>", "'\"&"]


def test_the_page_is_small_enough(tmp_path: Path) -> None:
    big = tuple(f"<{i}> " + "word & 😀 <" * 1_000 for i in range(8))
    labels = tuple(f"label {i}" for i in range(50))
    folder = run_folder(tmp_path / "run", rows=500, prompts=60, dev=1500, texts=big, labels=labels)
    path = write_report(folder)
    assert path.stat().st_size < 3_000_000
    dev = data_of(path.read_text(encoding="utf-8"))["tables"]["dev"]
    assert len(dev["rows"]) == 1000 and dev["note"] == "the first 1,000 of 1,500 dev rows"


def test_tracks_put_pieces_of_training_together(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    values = [
        ("train", {"prompt_id": "p", "adapter_id": "a", "steps": 2, "losses": [3.0, 2.0], "decayed": False}),
        ("tuned", {"prompt_id": "p", "adapter_id": "a", "steps": 2, "score": 0.5, "rows": 10}),
        ("train", {"prompt_id": "p", "adapter_id": "b", "steps": 3, "losses": [2.5, 2.4, 2.3], "decayed": False}),
        ("tuned", {"prompt_id": "p", "adapter_id": "b", "steps": 43, "score": 0.6, "rows": 10}),
        ("train", {"prompt_id": "p", "adapter_id": "c", "steps": 4, "losses": [3.0, 2.0, 1.5, 1.2], "decayed": True}),
        ("tuned", {"prompt_id": "p", "adapter_id": "c", "steps": 4, "score": 0.7, "rows": 10}),
    ]
    lines = [json.dumps({"kind": kind, "value": value}) for kind, value in values]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    first, second = read_trials(read_record(folder))
    assert first.losses == [3.0, 2.0, 1.5, 1.2] and first.decays_from == 2 and first.start == 0
    assert [(look.steps, look.level, look.decays_from) for look in first.looks] == [(2, 0.5, None), (4, 0.7, 2)]
    assert second.start == 40 and len(second.losses) == 3


def test_dev_by_step_never_runs_backwards_where_training_went_on_after_it_had_ended(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = [3.0, 2.0, 1.5, 1.4, 1.3, 1.2]

    def trained(adapter: str, losses: list[float], score: float, *, decayed: bool = False) -> list[tuple[str, dict[str, Any]]]:
        told = {"prompt_id": "p", "adapter_id": adapter, "steps": len(losses)}
        return [("train", {**told, "losses": losses, "decayed": decayed}), ("tuned", {**told, "score": score, "rows": 10})]

    values = [
        *trained("a", run[:2], 0.5),
        *trained("b", [*run[:2], 0.9, 0.8], 0.7, decayed=True),
        *trained("c", run[:3], 0.6),
        *trained("d", [*run[:3], 0.7, 0.6], 0.8, decayed=True),
        *trained("e", run, 0.4),
    ]
    lines = [json.dumps({"kind": kind, "value": value}) for kind, value in values]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    (trial,) = read_trials(read_record(folder))
    assert dev_lines(trial) == [[(2, 0.5), (3, 0.6), (6, 0.4)], [(2, 0.5), (4, 0.7)], [(3, 0.6), (5, 0.8)]]
    assert trial.losses == run and trial.decays_from is None


def test_the_waterfall_leads_from_the_seed_prompt_to_the_winner(tmp_path: Path) -> None:
    record = read_record(run_folder(tmp_path / "run"))
    moves = read_moves(record, read_prompts(record))
    assert (moves[0].name, moves[0].level) == ("seed prompt, base model", 0.4)
    assert [move.level for move in moves[1:]] == [0.5, 0.72, 0.74]
    assert "95% intervals" not in waterfall_section(record, read_prompts(record))


def test_the_waterfall_says_that_the_old_bundle_was_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    journal = folder / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    (confirm,) = (line["value"] for line in lines if line["kind"] == "confirm")
    confirm["dev"]["best_tuned"]["score"] = 0.78
    names = []
    for previous in ({}, dict(confirm["arms"]["best_tuned"])):
        confirm["arms"]["previous"] = previous
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        record = read_record(folder)
        last = read_moves(record, read_prompts(record))[-1]
        assert last.level == 0.78
        names.append(last.name)
    assert names[1] == "the old bundle kept" != names[0]


@pytest.mark.parametrize("size", [1, 5])
def test_the_waterfall_has_paired_intervals_where_rows_are_known(tmp_path: Path, size: int) -> None:
    from cotune.evaluate.packing import pack_rows
    from cotune.evaluate.stats.paired import paired_intervals

    folder = run_folder(tmp_path / "run")
    journal = folder / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    right = {"seed_prompt": [1] * 20 + [0] * 30, "prompt_only": [0] * 5 + [1] * 25 + [0] * 20}
    for line in lines:
        if line["kind"] == "start" and size > 1:
            line["value"]["dev_groups"] = [row // size for row in range(50)]
        if line["kind"] == "confirm":
            for arm, rows in right.items():
                line["value"]["dev"][arm]["correct"] = pack_rows(rows)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    record = read_record(folder)
    shown = waterfall_section(record, read_prompts(record))
    groups = None if size == 1 else [row // size for row in range(50)]
    ends = paired_intervals(*right.values(), seed=0, groups=groups)(0.95)
    assert (ends.width > paired_intervals(*right.values(), seed=0)(0.95).width) == (size > 1)
    assert f"{signed_points(ends.low)} to {signed_points(ends.high)}" in shown and "paired 95% intervals" in shown


def test_a_share_of_grouped_rows_counts_groups() -> None:
    from cotune.report.html.intervals import share_interval, share_text

    alone, grouped = share_interval(0.8, 30, "accuracy"), share_interval(0.8, 30, "accuracy", [row // 5 for row in range(50)])
    assert alone and grouped and grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])
    assert share_interval(0.8, 30, "accuracy", range(50)) == alone
    assert "30 rows" in share_text(0.8, 30, share_interval(0.8, 30, "accuracy", [0] * 30))


def test_prompts_know_their_scores_and_parents(tmp_path: Path) -> None:
    record = read_record(run_folder(tmp_path / "run"))
    prompts = read_prompts(record)
    seed, winner = prompts.by_id[prompts.seed], prompts.by_id[prompts.winner]
    assert seed.parents == () and winner.parents == (prompts.seed,)
    best = winner.best(record.dev_measure)
    assert [s.steps for s in winner.tuned] == [10, 20] and best and best.score == pytest.approx(0.74)
    assert [facts.cycle for facts in prompts.by_id.values()] == [1] * 4 + [2] * 4
    assert sum(bool(facts.dropped) for facts in prompts.by_id.values()) == 1


def test_a_prompt_is_named_with_its_demonstrations_however_short_the_name() -> None:
    shown = tuple(Demonstration((("text", f"row {i}"),), "a label") for i in range(5))
    prompt = Prompt("Which label? " * 30, "{text}", demonstrations=shown)
    bare, near = PromptFacts(Prompt("", "{text}", demonstrations=shown[:1])), PromptFacts(replace(prompt, nearest=3))
    facts = PromptFacts(prompt)
    assert len(facts.name) <= 110 and facts.name.endswith("… [+5 demonstrations]")
    assert near.short(60).endswith("… [+3 demonstrations, nearest to the row]") and len(near.short(60)) <= 60
    assert bare.name.endswith(" [+1 demonstration]")
    prompts = Prompts({prompt.id: facts}, seed=prompt.id)
    assert prompts.named(prompt.id, 70).startswith("seed: Which label?") and len(prompts.named(prompt.id, 70)) <= 70
    assert prompts.named(prompt.id, 70).endswith("… [+5 demonstrations]") and prompts.named("unknown") == "unknown"


def test_the_config_comes_back_from_the_report(tmp_path: Path) -> None:
    from cotune.config import config_from_data, load_config

    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    config = config_from_data(tmp_path / "rows.csv", input="text", output="label", overrides=["tune.rank=4", "limit.test=7"])
    (tmp_path / "task.yaml").write_text(task_yaml(config.model_dump(mode="json")))
    assert config.differences(load_config(tmp_path / "task.yaml", [])) == []


def test_a_schema_and_odd_names_come_back_from_the_report(tmp_path: Path) -> None:
    from cotune.config import load_config

    schema = {"type": "object", "properties": {"note": {}, "x": {"const": None}}, "required": ["note"]}
    (tmp_path / "rows.csv").write_text("1e3,out\na,{}\n")
    data = {"train": "rows.csv", "input": ["1e3"], "output": "out"}
    (tmp_path / "first.yaml").write_text(json.dumps({"name": "t", "data": data, "output": {"type": "json", "schema": schema}}))
    config = load_config(tmp_path / "first.yaml", [])
    (tmp_path / "task.yaml").write_text(task_yaml(config.model_dump(mode="json")))
    again = load_config(tmp_path / "task.yaml", [])
    assert again.output.json_schema == schema and again.data.input == ("1e3",) and config.differences(again) == []


def test_diff_says_what_went_and_what_came() -> None:
    assert word_diff("Say the label.", "Say one label.") == [["=", "Say "], ["-", "the "], ["+", "one "], ["=", "label."]]
    assert word_diff("a " * 5_000, "b") is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_diff_holds_both_texts(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert pieces is not None
    assert "".join(text for step, text in pieces if step != "+") == before
    assert "".join(text for step, text in pieces if step != "-") == after


@given(st.text())
def test_embedded_json_cannot_leave_its_element(text: str) -> None:
    made = embedded_json({"text": text})
    assert not set(made) & set("<>&\u2028\u2029")
    assert made.encode()
    json.loads(made)


@given(st.text(), st.integers(min_value=1, max_value=200))
def test_cut_keeps_to_its_bytes(text: str, most: int) -> None:
    kept, missing = cut(text, most)
    assert text.startswith(kept) and len(kept) + missing == len(text)
    assert len(embedded_json(kept).encode()) - 2 <= most


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_inside(low: float, width: float, count: int) -> None:
    ticks = nice_ticks(low, low + width, count)
    assert 1 <= len(ticks) <= count + 2
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)


def test_the_error_of_calibrated_answers_shrinks_with_rows() -> None:
    import numpy as np

    few, many = (_chance_error(np.full(n, 0.7)) for n in (50, 5_000))
    # Half the width of the 95% interval of a share of 0.7.
    assert few == pytest.approx(1.96 * (0.21 / 50) ** 0.5, rel=0.25)
    assert many == pytest.approx(1.96 * (0.21 / 5_000) ** 0.5, rel=0.25)


def test_a_prompt_is_shown_with_all_that_the_model_reads() -> None:
    from cotune.report.html.sections.prompts import PromptFacts

    prompt = Prompt(instruction="Do it.", system="Be brief.", label_words=(("x", "good"), ("y", "y")))
    text = PromptFacts(prompt).full_text
    assert text == "[system]\nBe brief.\n\n[prompt]\nDo it.\n{input}\n\n[label words]\nx → good"


@pytest.mark.parametrize(
    ("headline", "shown"),
    [
        ("Within 0.125 0.912 on 30 test rows (95% interval 0.779 to 0.969).", "Within 0.125 91.2% on 30 test rows"),
        (
            "Keep the new bundle: over the old one the new one gains 1.0 point (95% interval +0.2 to +1.8, p = 0.031).",
            "p = 0.031",
        ),
    ],
)
def test_the_headline_turns_scores_alone_into_percent(tmp_path: Path, headline: str, shown: str) -> None:
    (tmp_path / "journal.jsonl").write_text("")
    (tmp_path / "summary.json").write_text(json.dumps({"verdict": headline, "metric": "within 0.125"}))
    assert shown in render_report(tmp_path)
