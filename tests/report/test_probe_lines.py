"""What terminal and closing word tell of a run that reads labels by probes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from probe_runs import FIRST, REFERENCES, probe_folder
from rich.console import Console

from cotune.prompt.prompt import Prompt
from cotune.report.html import render_report
from cotune.report.terminal.console import LiveView
from cotune.report.terminal.lines import PlainView
from cotune.report.terminal.narration import Story, stage_name
from cotune.report.terminal.result import result_sentences, result_warnings
from cotune.report.terminal.verdict import verdict_text

ARM: dict[str, Any] = {
    "score": 0.87,
    "ci": [0.82, 0.91],
    "n": 400,
    "log_loss": 0.4,
    "prompt_id": "p",
    "adapter_id": "a",
    "decision": {"kind": "probe", "bias": []},
    "readout": "probe",
    "layer": 20,
    "steps": 12,
    "split": "test",
}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = probe_folder(tmp_path_factory.mktemp("lines") / "run")
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_tell_each_step_once_in_words(events: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    view = PlainView(stream, now=lambda: 0.0)
    for event in events:
        view.event(event)
    lines = stream.getvalue().splitlines()
    bodies = [line.split("] ", 1)[1] for line in lines]
    assert f"[00:31] first verdict {FIRST}; a usable bundle (prompt and read-out) is in best" in lines
    for told in (
        "cycle 1: passes end after layer 26 from now on: no leading prompt is read from above",
        "cycle 1: 4 prompts raced by frozen probes on 200 labelled rows: best cross-fitted 0.800, log-loss 0.710 after ",
        "frozen probe after layer 20: held-out 0.770, log-loss 0.750 on 200 labelled rows with ",
        "tuned layers 11 to 20 on 150 rows, 12 steps, with ",
        "tuned for 12 steps: held-out 0.820, log-loss 0.600 on 200 labelled rows, by a probe after layer 20, with ",
        "cycle 2: ends at held-out 0.860, log-loss 0.500 after 12 steps with ",
        "the test rows, sealed until now, are scored once, for 5 arms (a prompt with weights each) and 3 references",
        "test, TF-IDF with logistic regression: 0.600, log-loss 1.100 on 40 test rows",
        "test, always the commonest label: 0.250, log-loss 1.400 on 40 test rows",
        "test, zero-shot (label words, no training): 0.400, log-loss 1.300 on 40 test rows",
    ):
        assert any(body.startswith(told) for body in bodies), told
    assert not any(body.startswith(("embed", "probe:", "layers:", "tuned after 0")) for body in bodies), "too many to be read"
    best = [body for body in bodies if body.endswith(": best so far")]
    assert [body.split("log-loss ")[1][:5] for body in best] == ["0.600", "0.500"], "the seed prompt's 0.660 is no best"


def test_the_best_goes_by_held_out_log_loss_not_by_accuracy() -> None:
    story = Story()
    tuned = {"stage": "tune", "readout": "probe", "layer": 8, "steps": 4, "rows": 64}
    for score, loss in ((0.9, 0.5), (0.8, 0.4), (0.95, 0.45)):
        story.tell({"kind": "tuned", "value": {**tuned, "score": score, "log_loss": loss, "prompt_id": "x"}})
    assert story.best == (0.8, 0.4, "x") and story.trail == [0.5, 0.4]


def test_losses_on_other_rows_are_no_way_from_one_to_the_next() -> None:
    story = Story()
    race = {"cycle": 1, "layers": [4], "ranking": ["x"], "rows": {"x": 117}, "best": {"prompt_id": "x", "log_loss": 0.213}}
    story.tell({"kind": "race", "value": race})
    tuned = {"stage": "tune", "readout": "head", "rows": 35, "score": 0.9, "log_loss": 0.139, "prompt_id": "x"}
    story.tell({"kind": "tuned", "value": tuned})
    assert story.trail == [0.139] and story.best == (0.9, 0.139, "x")


def test_the_live_view_calls_the_loss_of_a_race_cross_fitted_and_compares_it_with_no_held_out_loss() -> None:
    race = {"cycle": 1, "layers": [4], "ranking": ["x"], "rows": {"x": 117}, "best": {"prompt_id": "x", "log_loss": 0.213}}
    tuned = {"stage": "tune", "readout": "head", "rows": 117, "score": 0.9, "log_loss": 0.139, "prompt_id": "x"}
    console = Console(file=io.StringIO(), width=90, height=20, record=True, _environ={})
    view, shown = LiveView(console), []
    for kind, value in (("race", race), ("tuned", tuned)):
        view.event({"n": 1, "kind": kind, "active_s": 1.0, "value": value})
        console.print(view.render())
        shown.append(console.export_text())
    assert "log-loss 0.213   cross-fitted" in shown[0] and "held out" not in shown[0]
    assert "held out  0.900  log-loss 0.139" in shown[1] and "→" not in shown[1], "same rows, other fits"


def test_the_users_prompts_are_shown_by_their_text_from_the_start() -> None:
    prompt, story = Prompt("", "Sort it: {text}"), Story()
    story.tell({"kind": "start", "value": {"task": "t", "n": {"train": 40, "dev": 20}, "prompts": [prompt.to_json()]}})
    assert story.prompt(prompt.id) == "“Sort it: {text}”", "a race that is cut makes no pool"
    [cut] = story.tell({"kind": "cut", "value": {"rows": 48, "of": 60, "text": "the race is cut"}})
    [fitted] = story.tell({"kind": "confirm", "value": {}})
    assert cut.text == "the race is cut" and fitted.text.startswith("confirmed")
    story.tell({"kind": "race", "value": {"cycle": 1, "layers": [4], "ranking": [prompt.id], "rows": {prompt.id: 48}}})
    [fitted] = story.tell({"kind": "confirm", "value": {}})
    assert fitted.text.startswith("arms fitted to all 48 labelled rows")
    # A later race that is cut changes no number of rows.
    [cut] = story.tell({"kind": "cut", "value": {"cycle": 2, "rows": 24, "of": 48, "text": "the race is cut"}})
    [fitted] = story.tell({"kind": "confirm", "value": {}})
    assert cut.text == "the race is cut" and fitted.text.startswith("arms fitted to all 48 labelled rows")


def test_the_live_view_keeps_the_first_verdict_in_sight(events: list[dict[str, Any]]) -> None:
    console = Console(file=io.StringIO(), width=90, height=20, record=True, _environ={})
    view = LiveView(console)
    for event in events[: next(n for n, event in enumerate(events) if event["kind"] == "open_test")]:
        view.event(event)
    view.progress("final", "step 3/12", 100)
    console.print(view.render())
    shown = console.export_text()
    assert "verdict   0.80 (0.74 to 0.85) by a probe after layer 20; TF-IDF 0.58; known after 31 s" in shown
    assert "held out  0.860  log-loss 0.500" in shown and "best dev" not in shown
    assert "tuning on all labelled rows in cycle 2" in shown
    assert len(shown.splitlines()) <= 20


@pytest.mark.parametrize("stage", ["race", "tune", "judge", "final", "verdict", "judged", "embed", "test"])
def test_every_stage_has_a_plain_name(stage: str) -> None:
    assert stage_name(stage) != stage


def test_a_reference_that_could_not_be_made_says_why() -> None:
    [told] = Story().tell({"kind": "reference", "value": {"name": "tfidf", "skipped": "empty vocabulary"}})
    assert told.text == "test, TF-IDF with logistic regression: not measured, empty vocabulary"


def of(references: dict[str, Any], **arm: Any) -> list[str]:
    known = {name: one and {"n": 400, **{key: one[key] for key in one if key != "n"}} for name, one in references.items()}
    return result_sentences({"metric": "accuracy", "arms": {"best_tuned": {**ARM, **arm}}, "references": known})


def test_a_reference_that_was_measured_on_fewer_rows_says_so(tmp_path: Path) -> None:
    fewer = {"best_tuned": ARM}, {**REFERENCES["zero_shot"], "n": 300}
    lead = result_sentences({"metric": "accuracy", "arms": fewer[0], "references": {"zero_shot": fewer[1]}})[0]
    assert lead.endswith("; zero-shot (label words, no training) 0.400 (on 300 of the rows).")
    folder = probe_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert "of the rows" not in (page := render_report(folder)) and "on 30 rows" not in page
    assert not re.search(r"reference +score .* n\n", verdict_text(summary, width=120))
    summary["references"]["zero_shot"]["n"] = 30
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    page = render_report(folder)
    assert page.count("<span>reference (on 30 of the rows)</span>") == 1
    assert page.count("zero-shot (label words, no training): 40.0% (33.0 to 47.0) on 30 rows") == 2
    text = verdict_text(summary, width=120)
    assert re.search(r"reference +score .* n\n", text) and re.search(r"label words, no training\) .* 30\n", text)


def test_a_wide_interval_on_many_rows_is_told_without_asking_for_fewer_rows() -> None:
    summary = {"metric": "macro_f1", "arms": {"best_tuned": {**ARM, "n": 150, "ci": [0.4, 0.75]}}}
    [told] = result_warnings(summary)
    assert "spans 35 points" in told and "100 for the test" not in told and "Label more rows for the test" in told


def test_the_result_leads_beside_its_references() -> None:
    lead, needed = of(REFERENCES)
    assert lead == (
        "Accuracy 0.870 on 400 test rows (95% interval 0.820 to 0.910); zero-shot (label words, no training) 0.400, "
        "TF-IDF 0.600, always the commonest label 0.250."
    )
    assert needed == (
        "A language model was needed: it answers 27.0 points more rows right than TF-IDF (95% interval +20.0 to +34.0, paired, "
        "p < 0.001)."
    )
    alone = "Accuracy 0.870 on 400 test rows (95% interval 0.820 to 0.910)."
    assert of({}) == [alone] and of({"tfidf": None, "majority": None}) == [alone] and of(REFERENCES, score=None) == []


def test_without_references_the_untuned_seed_prompt_stands_beside_the_result() -> None:
    seed = {**ARM, "score": 0.3, "readout": "generation"}
    summary = {"metric": "accuracy", "arms": {"seed_prompt": seed, "best_tuned": ARM}}
    assert result_sentences(summary)[0].endswith("(95% interval 0.820 to 0.910); untuned 0.300.")
    # A probe has learnt from the rows: it is not what the model answers untuned.
    fitted = {**summary, "arms": {"seed_prompt": {**seed, "readout": "probe"}, "best_tuned": ARM}}
    assert "untuned" not in result_sentences(fitted)[0]
    # Where the seed prompt itself ships, nothing is told twice.
    assert "untuned" not in result_sentences({**summary, "arms": {"seed_prompt": seed}, "best": {"arm": "seed_prompt"}})[0]


@pytest.mark.parametrize(
    ("arm", "references", "told"),
    [
        (
            {"n": 6, "ci": [0.4, 0.95]},
            {},
            ["6 test rows are too few to judge by: the 95% interval of the score spans 55 points."],
        ),
        (
            {},
            {"majority": {"score": 0.97, "label": "ok"}},
            ["97% of the test rows say 'ok', and always answering so is as good"],
        ),
        ({"score": 0.99}, {"majority": {"score": 0.97}}, ["97% of the test rows have the commonest label. Accuracy hides"]),
        ({"score": 1.0}, {"tfidf": {"score": 1.0}}, ["TF-IDF reaches 1.00 without a language model"]),
        ({}, {"majority": {"score": 0.3}, "tfidf": {"score": 0.6}}, []),
    ],
)
def test_what_the_score_cannot_show_is_warned_of(arm: dict[str, Any], references: dict[str, Any], told: list[str]) -> None:
    summary = {"metric": "accuracy", "arms": {"best_tuned": {**ARM, **arm}}, "references": references}
    warned = result_warnings(summary)
    assert len(warned) == len(told) and all(line.startswith(start) for line, start in zip(warned, told, strict=True))
    assert verdict_text(summary, width=300).count("Warning: ") == len(told)
    assert not any("macro_f1" in line for line in result_warnings({**summary, "metric": "macro_f1"}))


@pytest.mark.parametrize(
    ("tfidf", "told"),
    [
        (
            {"score": 0.86, "ci": [0.82, 0.9], "difference": {"value": 0.01, "ci": [-0.02, 0.04], "p": 0.6}},
            "These rows do not show that a language model was needed: its answers and those of TF-IDF differ by +1.0 points "
            "in the share of right rows",
        ),
        (
            {"score": 0.9, "ci": [0.87, 0.93], "difference": {"value": -0.03, "ci": [-0.05, -0.01], "p": 0.01}},
            "No language model was needed: TF-IDF answers 3.0 points more rows right (95% interval -5.0 to -1.0",
        ),
        (
            {"score": 0.5, "ci": [0.4, 0.6], "difference": {"metric": "r2", "value": 0.37, "ci": [0.3, 0.44], "p": 0.001}},
            "A language model was needed: its R² is 37.0 points higher than that of TF-IDF (95% interval +30.0 to +44.0",
        ),
        (
            {"score": 0.5, "ci": [0.4, 0.6], "difference": {"metric": "r2", "value": -0.2, "ci": [-0.3, -0.1], "p": 0.001}},
            "No language model was needed: the R² of TF-IDF is 20.0 points higher (95% interval -30.0 to -10.0",
        ),
        (
            {
                "score": 0.86,
                "ci": [0.82, 0.9],
                "difference": {"metric": "macro_f1", "value": 0.01, "ci": [-0.1, 0.1], "p": 0.6},
            },
            "These rows do not show that a language model was needed: its answers and those of TF-IDF differ by +1.0 points "
            "in macro F1 (",
        ),
        (None, "Whether a language model was needed is not known: TF-IDF could not be fitted to these rows."),
    ],
)
def test_whether_a_language_model_was_needed_is_said(tfidf: dict[str, Any] | None, told: str) -> None:
    assert of({**REFERENCES, "tfidf": tfidf})[1].startswith(told)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_closing_word_has_layers_and_references(tmp_path: Path, width: int) -> None:
    folder = probe_folder(tmp_path / "run")
    text = verdict_text(json.loads((folder / "summary.json").read_text(encoding="utf-8")), width=width)
    flat = " ".join(text.split())
    assert "References" in text and "0.600 0.530 to 0.660" in flat and "classification head" not in text
    assert ("probe, layer 20" in flat) == (width >= 60)
    assert text.index("prompt alone") < text.index("tuning alone") < text.index("prompt, given tuning")
    assert max(map(len, text.splitlines())) <= width


def test_an_arm_that_took_no_step_is_told_once_and_not_called_tuned() -> None:
    story = Story()
    frozen = {"prompt_id": "p", "adapter_id": "f" * 16, "decision": {"kind": "probe", "bias": []}, "steps": 0}
    tuned = {**frozen, "adapter_id": "a" * 16, "steps": 12}
    arms = {"seed_prompt": {**frozen, "prompt_id": "s"}, "prompt_only": frozen, "best_prompt": frozen}
    arms |= {"seed_tuned": {**tuned, "prompt_id": "s"}, "best_tuned": frozen}
    story.tell({"kind": "tuned", "value": {"stage": "tune", "readout": "probe", "log_loss": 0.4, "rows": 64, "steps": 4}})
    [told] = story.tell({"kind": "confirm", "value": {"arms": arms, "dev": {name: {"score": 0.9} for name in arms}}})
    best = "best prompt, frozen (no tuning step paid off)"
    assert told.text.count("0.900") == 3 and f"{best} 0.900; seed prompt 0.900; seed tuned 0.900" in told.text
    ids = {name: str(arms[name]["adapter_id"]) + str(arms[name]["prompt_id"]) for name in arms}
    [opened] = story.tell({"kind": "open_test", "value": {"arms": {**ids, "reference_tfidf": "r"}}})
    assert "for 3 arms (a prompt with weights each) and 1 reference" in opened.text
    lines = [line.text for name in arms for line in story.tell({"kind": "arm", "value": {"name": name, "score": 0.9, "n": 1}})]
    assert lines == [f"test, {name}: 0.900 on 1 test row" for name in ("seed prompt", best, "seed tuned")]
