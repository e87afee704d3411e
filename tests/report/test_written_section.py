"""Written answers on the page: hostile texts stay texts, differences are marked, JSON is counted field by field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cotune.evaluate.frozen_arms import EVERY_ARM
from cotune.evaluate.shares import field_scores
from cotune.report.html.page import render_report
from cotune.report.html.sections.record import read_record
from cotune.report.html.sections.written import written_changes, written_errors
from cotune.task.answered import Answered
from cotune.task.values.output import Output

OUTPUT = {
    "type": "json",
    "schema": {"type": "object", "properties": {"intent": {"type": "string"}, "slot": {"type": "string"}}},
}
HOSTILE = '{"intent": "</script><img src=x onerror=alert(1)>", "slot": "\u202egold"}'


def folder_of(path: Path) -> Path:
    golds = ['{"intent": "play", "slot": "a"}', '{"intent": "stop"}', HOSTILE]
    answers = ['{"intent": "play", "slot": "b c"}', '{"intent": "stop"}', "no JSON at all"]
    rows = [
        {
            "id": f"test:{i}",
            "input": {"text": f"row {i} <b>"},
            "gold": gold,
            "answers": dict.fromkeys(EVERY_ARM, answer),
            "values": dict.fromkeys(EVERY_ARM, [0.5, 1.0, 0.0][i]),
            "right": dict.fromkeys(EVERY_ARM, i == 1),
        }
        for i, (gold, answer) in enumerate(zip(golds, answers, strict=True))
    ]
    path.mkdir()
    (path / "journal.jsonl").write_text("")
    (path / "test_rows.json").write_text(json.dumps({"labels": [], "rows": rows}))
    told = field_scores(Answered(golds, answers, Output.from_json(OUTPUT)), seed=0)
    arms = {arm: {"fields": [one.as_dict("field") for one in told]} for arm in EVERY_ARM}
    summary = {"task": "slots", "metric": "json_f1", "output": OUTPUT, "arms": arms}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def test_rows_keep_what_was_written_and_whether_it_counts(tmp_path: Path) -> None:
    tests = read_record(folder_of(tmp_path / "run")).tests
    assert tests.written and tests.arms == EVERY_ARM
    assert [tests.labels[row.answers["best_tuned"]] for row in tests.rows][1:] == ['{"intent": "stop"}', "no JSON at all"]
    assert [row.right["seed_prompt"] for row in tests.rows] == [False, True, False]
    assert written_changes(tests, tests.rows[1], "best_tuned") == []
    changes = written_changes(tests, tests.rows[0], "best_tuned")
    assert "".join(text for op, text in changes if op != "+") == tests.labels[tests.rows[0].reference]
    assert "".join(text for op, text in changes if op != "-") == '{"intent": "play", "slot": "b c"}'


def test_fields_are_counted_one_by_one(tmp_path: Path) -> None:
    record = read_record(folder_of(tmp_path / "run"))
    shown = written_errors(record.tests, "best_tuned", record.summary["arms"]["best_tuned"]["fields"])
    cells = shown.split("intent")[1].split("</tr>")[0]
    assert ">3<" in cells and ">2<" in cells and ">100.0 <" in cells and ">66.7 <" in cells
    # Two of two and two of three rows, by Wilson.
    assert "(34.2 to 100.0)" in cells and "(20.8 to 93.9)" in cells
    bare = written_errors(record.tests, "best_tuned", [{"field": "<b>", "right": None, "f1": 3}, 7])
    assert "&lt;b&gt;" in bare and "–" in bare
    assert "2 of 3 rows count as wrong" in shown


def test_hostile_answers_stay_texts(tmp_path: Path) -> None:
    page = render_report(folder_of(tmp_path / "run"))
    assert "<img src=x" not in page and "\u202e" not in page
    assert page.count("</script>") == page.count("<script")


@pytest.mark.parametrize("broken", [{"gold": 3}, {"right": {}}, {"answers": None}])
def test_rows_of_another_form_are_left_out_and_told(tmp_path: Path, broken: dict[str, object]) -> None:
    folder = folder_of(tmp_path / "run")
    data = json.loads((folder / "test_rows.json").read_text())
    data["rows"][0] |= broken
    (folder / "test_rows.json").write_text(json.dumps(data))
    record = read_record(folder)
    assert len(record.tests.rows) == 2 and any("1 row(s)" in remark for remark in record.remarks)


def test_the_first_difference_of_long_answers_is_shown(tmp_path: Path) -> None:
    folder, long = folder_of(tmp_path / "run"), "word " * 400
    path = folder / "test_rows.json"
    told = json.loads(path.read_text())
    told["rows"][0] |= {"gold": f"{long}right", "answers": dict.fromkeys(EVERY_ARM, f"{long}wrong")}
    path.write_text(json.dumps(told))
    tests = read_record(folder).tests
    changes = written_changes(tests, tests.rows[0], EVERY_ARM[0])
    assert changes[0] == ["=", "… "] and ["-", "right"] in changes and ["+", "wrong"] in changes


def test_an_arm_that_wrote_nothing_has_nothing_struck_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    path = folder / "test_rows.json"
    told = json.loads(path.read_text())
    for row in told["rows"]:
        row["answers"] = dict.fromkeys(EVERY_ARM)
    path.write_text(json.dumps(told))
    text = written_errors(read_record(folder).tests, EVERY_ARM[0], [])
    assert "<del>" not in text and "play" in text


def many(path: Path, rows: int, words: int, character: str = "w") -> Path:
    """A run with long written answers, all different and all wrong."""

    # All numbers below 997, in an order that each text takes up at another place.
    circle = [f"{character}{i * 31 % 997}" for i in range(997)] * (words // 997 + 2)

    def text(seed: int) -> str:
        start = seed * 7919 % 997
        return " ".join(circle[start : start + words])

    made = [
        {
            "id": f"test:{i}",
            "input": {"text": text(i)},
            "gold": text(i + 1),
            "answers": {arm: text(5 * i + place + 2) for place, arm in enumerate(EVERY_ARM)},
            "values": dict.fromkeys(EVERY_ARM, 0.5),
            "right": dict.fromkeys(EVERY_ARM, False),
        }
        for i in range(rows)
    ]
    path.mkdir()
    (path / "journal.jsonl").write_text("")
    (path / "test_rows.json").write_text(json.dumps({"labels": [], "rows": made}))
    names = {name: {"id": name, "prompt_id": name, "steps": 0} for name in EVERY_ARM[:3]}
    dev = [{**row, "answers": {n: row["answers"][n] for n in names}, "right": dict.fromkeys(names, False)} for row in made]
    (path / "dev_rows.json").write_text(json.dumps({"candidates": list(names.values()), "labels": [], "rows": dev}))
    (path / "summary.json").write_text(json.dumps({"task": "t", "metric": "token_f1", "arms": {arm: {} for arm in EVERY_ARM}}))
    return path


@pytest.mark.parametrize("character", ["w", "\u20ac", "<&"])
def test_the_page_is_bounded_and_says_what_it_leaves_out(tmp_path: Path, character: str) -> None:
    page = render_report(many(tmp_path / "run", 1_100, 400, character))
    assert len(page.encode()) < 9_000_000
    assert "Of 1,100 test rows, this page shows the first 1,000; test_rows.json in the run’s folder has all of them." in page
    assert "Of 1,100 dev rows, this page shows the first 250" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])["tables"]["test"]
    assert len(data["rows"]) == 1_000 and data["note"] == "the first 1,000 of 1,100 test rows"
    assert max(place for row in data["rows"] for place in (row["gold"], *row["answers"])) == len(data["labels"]) - 1
    last = data["rows"][-1]
    assert last["missing"] > 0 and last["changes"][0][-1] == ["=", " …"]


def test_a_prompt_without_an_answer_to_a_row_that_is_left_out_has_no_column(tmp_path: Path) -> None:
    folder = many(tmp_path / "run", 300, 5)
    data = json.loads((folder / "dev_rows.json").read_text())
    for part in ("answers", "right"):
        del data["rows"][-1][part][EVERY_ARM[1]]
    (folder / "dev_rows.json").write_text(json.dumps(data))
    page = render_report(folder)
    table = json.loads(page.split('id="data">')[1].split("</script>")[0])["tables"]["dev"]
    assert len(table["rows"]) == 250 and len(table["columns"]) == 2
    assert {len(row["answers"]) for row in table["rows"]} == {len(row["right"]) for row in table["rows"]} == {2}


def test_the_page_of_few_rows_has_them_all(tmp_path: Path) -> None:
    page = render_report(many(tmp_path / "run", 20, 200))
    assert "this page shows the first" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])["tables"]["test"]
    assert len(data["rows"]) == 20 and not data["note"] and not data["rows"][0]["missing"]


@pytest.mark.parametrize("filler", ['"<&', "\u4f60\u597d", "w "])
@pytest.mark.parametrize("common", [5, 40, 90, 150])
def test_the_first_difference_is_shown_whatever_characters_cost(tmp_path: Path, filler: str, common: int) -> None:
    text = (filler * 200)[:common]
    tests = read_record(folder_of(tmp_path / "run")).tests
    row = tests.rows[0]
    labels = list(tests.labels)
    labels[row.reference], labels[row.answers["best_tuned"]] = text + "north" + text, text + "south" + text
    changes = written_changes(replace(tests, labels=labels), row, "best_tuned", 240)
    assert {sign for sign, _ in changes} >= {"-", "+"}


def numbers_section(path: Path, references: list[str], answers: list[str]) -> str:
    rows = [
        {
            "id": f"test:{i}",
            "input": {"text": f"row {i} <b>"},
            "gold": right,
            "answers": dict.fromkeys(EVERY_ARM, answer),
            "values": dict.fromkeys(EVERY_ARM, 1.0),
            "right": dict.fromkeys(EVERY_ARM, True),
        }
        for i, (right, answer) in enumerate(zip(references, answers, strict=True))
    ]
    path.mkdir()
    (path / "journal.jsonl").write_text("")
    (path / "test_rows.json").write_text(json.dumps({"labels": [], "rows": rows}))
    (path / "summary.json").write_text(json.dumps({"task": "prices", "metric": "r2", "output": {"type": "number"}, "arms": {}}))
    return written_errors(read_record(path).tests, "best_tuned", [])


def test_numbers_are_shown_as_a_plot_of_answers_over_right_numbers(tmp_path: Path) -> None:
    found = numbers_section(tmp_path / "prices", ["1250000", "1250010", "980000"], ["1249999.5", "none", "1000000"])
    assert found.count("<circle") == 2 and "right 1250000, answered 1249999.5\nrow 0 &lt;b&gt;" in found
    assert "Answers over right numbers" not in numbers_section(tmp_path / "texts", ["12", "a dozen"], ["12", "12"])


@pytest.mark.parametrize(
    ("references", "answers"),
    [(["0.000000001", "0.000000003"], ["0.000000001", "0.000000003"]), (["1e12"], ["1e12"]), (["0"], ["0"])],
    ids=["tiny", "one large", "one zero"],
)
def test_a_plot_of_numbers_has_room_around_them(tmp_path: Path, references: list[str], answers: list[str]) -> None:
    found = numbers_section(tmp_path / "run", references, answers)
    places = [float(place) for place in re.findall(r'cx="([^"%]+)%"', found)]
    ticks = re.findall(r"<text[^>]*>([^<]+)</text>", found)
    assert len(set(places)) == len(set(references)) and (len(places) == 1 or max(places) - min(places) > 50)
    assert len(set(ticks)) >= 3 and len(ticks) == 2 * len(set(ticks))


def test_a_wrong_number_stands_beside_the_right_one(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "run")
    rows = json.loads((path / "test_rows.json").read_text())
    for row, right, answered in zip(rows["rows"], ("2", "4.5", "7"), ("3.22", "4.5", "-7"), strict=True):
        row.update({"gold": right, "answers": dict.fromkeys(EVERY_ARM, answered)})
    (path / "test_rows.json").write_text(json.dumps(rows))
    shown = written_errors(read_record(path).tests, "best_tuned", [])
    assert "right 2, answered 3.22" in shown and "right 7, answered -7" in shown and "<del>" not in shown
