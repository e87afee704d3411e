"""Finished runs read back and compared: groups of either run, numbers that are none, and the lock of a folder."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cotune.cycle.runs.listing import is_locked, list_runs, read_finished
from cotune.cycle.runs.side_by_side import compare_runs, joined
from cotune.errors import InputError
from cotune.run_files import LOCK, SUMMARY, TEST_ROWS
from finished_runs import finished

ROWS = 60


def test_groups_that_only_the_second_run_names_count(tmp_path: Path) -> None:
    before = [i % 3 > 0 for i in range(ROWS)]
    # The second run is right on whole groups, so that its 20 more rows are worth fewer.
    after = [i % 3 > 0 or i < ROWS // 2 for i in range(ROWS)]
    groups = [f"customer {i // 10}" for i in range(ROWS)]
    plain, bare = finished(tmp_path / "plain", before), finished(tmp_path / "bare", after)
    named = finished(tmp_path / "named", after, groups, order=[*range(0, ROWS, 2), *range(1, ROWS, 2)])
    alone, grouped = compare_runs(plain, bare).gain, compare_runs(plain, named).gain
    assert grouped.value == pytest.approx(alone.value) and alone.test == "exact McNemar"
    assert grouped.test == "paired permutation" and grouped.ci.width > alone.ci.width and grouped.p > alone.p
    both = compare_runs(finished(tmp_path / "both", before, groups), named).gain
    assert grouped == both
    back = compare_runs(named, plain).gain
    assert (back.ci.low, back.ci.high) == pytest.approx((-grouped.ci.high, -grouped.ci.low))


def test_rows_are_together_that_either_grouping_puts_together() -> None:
    assert joined(None, None) is None and joined(None, ["a"]) == ["a"] == joined(["a"], None)
    found = joined(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "4"])
    assert found is not None and found[0] == found[1] == found[2] and len({*found}) == 3


@pytest.mark.parametrize("odd", ["NaN", "Infinity", '"0.5"', "true", "null"])
def test_a_score_that_is_no_number_is_a_damaged_run_and_never_shown(tmp_path: Path, odd: str) -> None:
    folder = finished(tmp_path / "run", [True] * 9)
    text = (folder / SUMMARY).read_text(encoding="utf-8")
    [run] = list_runs(tmp_path)
    assert (run.state, run.score, run.ci, run.n) == ("finished", 1.0, (0.1, 0.9), 9)
    (folder / SUMMARY).write_text(text.replace('"score": 1.0', f'"score": {odd}').replace("0.9]", f"{odd}]"), encoding="utf-8")
    [run] = list_runs(tmp_path)
    assert (run.state, run.score, run.ci) == ("damaged", None, None)
    json.dumps(run.to_json(), allow_nan=False)


def test_a_folder_is_locked_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    assert not is_locked(tmp_path) and not (tmp_path / LOCK).exists(), "looking makes no file"
    seen = []
    with FileLock(tmp_path / LOCK):
        other = threading.Thread(target=lambda: seen.append(is_locked(tmp_path)))
        other.start()
        other.join()
    assert seen == [True] and not is_locked(tmp_path)


def test_a_run_without_generated_answers_shows_none(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    rows = [
        {"input": {"text": str(i)}, "gold": f"right {i}", "answers": {"best_tuned": None}, "values": {"best_tuned": 0.4}}
        for i in range(4)
    ]
    (folder / TEST_ROWS).write_text(json.dumps({"labels": [], "rows": rows}), encoding="utf-8")
    assert read_finished(folder).answers == ("",) * 4


@pytest.mark.parametrize("output", [{}, {"output": {"type": "json", "schema": {"additionalProperties": [None]}}}])
def test_runs_without_a_valid_output_cannot_be_compared(tmp_path: Path, output: dict[str, Any]) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    del summary["output"]
    (folder / SUMMARY).write_text(json.dumps(summary | output), encoding="utf-8")
    with pytest.raises(InputError, match=r"has no type|not a valid JSON Schema"):
        compare_runs(folder, folder)


@pytest.mark.parametrize("name", [SUMMARY, TEST_ROWS])
def test_files_that_are_nested_too_deeply_cannot_be_compared(tmp_path: Path, name: str) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    (folder / name).write_text("[" * 10**5, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        read_finished(folder)


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    for text in ("{", "[]", '{"best": null}'):
        (folder / SUMMARY).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"summary\.json: the run's summary cannot be read"):
            read_finished(folder)


def test_answers_that_miss_the_schema_are_wrong_in_a_comparison_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finished(folder, [True] * 4)
    references = ['{"a": 1, "b": "x"}'] * 4
    # The second and third have a field that the schema does not know.
    answers = [references[0], '{"a": 1, "b": "x", "c": 2}', '{"a": 1, "c": 2}', "none"]
    rows = [
        {"input": {"text": str(i)}, "gold": gold, "answers": {"best_tuned": answer}, "values": {"best_tuned": float(i == 0)}}
        for i, (gold, answer) in enumerate(zip(references, answers, strict=True))
    ]
    (folder / TEST_ROWS).write_text(json.dumps({"labels": [], "rows": rows}), encoding="utf-8")
    fields = {"a": {"type": "integer"}, "b": {"type": "string"}}
    schema = {"type": "object", "properties": fields, "required": ["a", "b"], "additionalProperties": False}
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    changed = {**summary, "metric": "json_f1", "output": {"type": "json", "schema": schema}}
    (folder / SUMMARY).write_text(json.dumps(changed), encoding="utf-8")
    found = compare_runs(folder, folder)
    # As in the run: two right values of eight, and each answer that does not fit is one wrong value.
    assert found.scores == pytest.approx((4 / 13, 4 / 13))


def changed(folder: Path, *, written: bool, **summary: Any) -> Path:
    """A finished run with other entries in its summary, whose answers are labels or written texts."""
    finished(folder, [True] * 6)
    if written:
        rows = [
            {"input": {"text": str(i)}, "gold": "yes", "answers": {"best_tuned": "yes"}, "values": {"best_tuned": i % 2}}
            for i in range(6)
        ]
        (folder / TEST_ROWS).write_text(json.dumps({"labels": [], "rows": rows}), encoding="utf-8")
        summary["output"] = {"type": "text"}
    found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    (folder / SUMMARY).write_text(json.dumps({**found, **summary}), encoding="utf-8")
    return folder


def judge(model: str, rubric: str = "Be fair.") -> dict[str, Any]:
    return {"metric": "judge", "judge": {"model": model, "rubric": rubric}}


def function(definition: str | None, name: str = "m.py:score") -> dict[str, Any]:
    return {"metric": name, "metric_definition": definition}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (function("a"), function("a"), ""),
        (function("a"), function("a", "copy.py:score"), ""),
        (
            function("a"),
            function("b"),
            "both runs measured m.py:score, but by different definitions: the content of",
        ),
        (function(None), function("b"), "do not say whether m.py:score was the same function"),
        (function("a"), function("b", "n.py:score"), "one run measured m.py:score and the other n.py:score"),
        (judge("x"), judge("x"), ""),
        (judge("x"), judge("y"), "different definitions: the judges x and y"),
        (judge("x"), judge("x", "Be strict."), "different definitions: the rubrics of the judge"),
        (function("pack 1", "polite"), function("pack 1", "short"), "one run measured polite and the other short"),
        ({"metric": "token_f1"}, {"metric": "token_f1", "metric_definition": None}, ""),
    ],
)
def test_metrics_of_one_name_are_told_apart_by_their_definitions(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    folders = [changed(tmp_path / str(i), written=True, **summary) for i, summary in enumerate((first, second))]
    if "run measured" in said or "definitions" in said:
        with pytest.raises(InputError, match=said):
            compare_runs(*folders)
    else:
        found = compare_runs(*folders)
        assert found.metric == first["metric"] and said in found.remark and bool(said) == bool(found.remark)


def test_labels_of_two_functions_of_one_name_are_compared_by_accuracy(tmp_path: Path) -> None:
    folders = [changed(tmp_path / name, written=False, **function(name)) for name in ("a", "b")]
    found = compare_runs(*folders)
    assert found.metric == "accuracy" and found.remark.endswith("the runs were chosen by two definitions of m.py:score.")
