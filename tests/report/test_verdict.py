"""The closing word: what stands in it, at every width, for whole, partial and odd summaries."""

from __future__ import annotations

import copy
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cotune.cycle.budget.budget import parse_budget
from cotune.evaluate.words import gain_outcome, signed
from cotune.report.terminal.advice import improvements, more_rows, next_steps, still_gaining
from cotune.report.terminal.notebook import summary_html
from cotune.report.terminal.result import result_warnings
from cotune.report.terminal.verdict import print_verdict, quiet_text, verdict_text

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
PROMPT = "[bold]Classify[/bold] the 🙂 :smile: question: {labels}\n\nשאלה مرحبا {text}\n\x1b[31m\u202eType:"


def arm(score: float, low: float, high: float, loss: float, prompt: str, adapter: str, steps: int) -> dict[str, Any]:
    decision = {"kind": "raw", "bias": []} if steps else {"kind": "bias", "bias": [0.1, -0.1]}
    return {
        "score": score,
        "ci": [low, high],
        "n": 500,
        "log_loss": loss,
        "prompt_id": prompt,
        "adapter_id": adapter,
        "decision": decision,
        "steps": steps,
        "split": "test",
    }


def gain(value: float, low: float | None, high: float | None, p: float, *, identical: bool = False) -> dict[str, Any]:
    return {"value": value, "ci": [low, high], "p": p, "p_single": p / 2, "identical": identical, "test": "exact McNemar"}


SUMMARY: dict[str, Any] = {
    "task": "trec6",
    "metric": "accuracy",
    "n": {"train": 350, "dev": 150, "test": 500},
    "model": "smollm2-135m",
    "verdict": "On 500 test rows, the searched [bold]prompt[/bold] gains 1.2 points.",
    "arms": {
        "best_tuned": arm(0.942, 0.918, 0.959, 0.251, "p2", "a2", 96),
        "seed_prompt": arm(0.340, 0.300, 0.383, 1.710, "p1", "base", 0),
        "prompt_only": arm(0.412, 0.370, 0.456, 1.602, "p2", "base", 0),
        "best_prompt": arm(0.412, 0.370, 0.456, 1.602, "p2", "base", 0),
        "seed_tuned": arm(0.930, 0.904, 0.949, 0.283, "p1", "a1", 96),
    },
    "noise": {"n": 48, "largest": 0.021, "mean": 0.0043, "reach": 0.03, "spread": 0.008, "flipped": 1},
    "robustness": {
        "n": 60,
        "base": {"scores": [0.31, 0.4, 0.5], "min": {"observed": 0.31}, "max": {"observed": 0.5}},
        "tuned": {"scores": [0.88, 0.9, 0.91], "min": {"observed": 0.88}, "max": {"observed": 0.91}},
        "sentence": "Tuning makes the model less sensitive to the prompt's format.",
    },
    "gains": {
        "prompt": gain(0.072, 0.03, 0.11, 0.003),
        "tuning": gain(0.59, 0.54, 0.63, 5e-30),
        "both": gain(0.602, 0.55, 0.65, 5e-30),
        "prompt_given_tuning": gain(0.012, -0.008, 0.062, 0.42),
        "synergy": gain(-0.06, -0.1, None, 0.03),
        "synergy_log_loss": gain(0.0, 0.0, 0.0, 1.0, identical=True),
    },
    "selection": {"dev": 0.953, "test": 0.942, "optimism": 0.011},
    "cycles": [
        {"race": {"score": 0.41}, "tuned": [{"score": 0.93}], "dev_score": 0.93, "dev_log_loss": 0.3},
        {"tuned": [{"score": 0.953}], "dev_score": 0.953, "dev_log_loss": 0.25},
    ],
    "cost": {
        "wall_s": 478.2,
        "tokens_scored": 1234567,
        "tokens_trained": 640000,
        "tokens_saved_by_prefix": 2100000,
        "peak_rss_mb": 2150,
    },
    "best": {"bundle": "runs/trec6/best", "prompt_text": PROMPT},
    "seed": 0,
}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_is_there_and_whole_at_each_width(width: int) -> None:
    text = verdict_text(SUMMARY, width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert not CONTROL.search(text.replace("\n", ""))
    assert all(line == line.rstrip() for line in text.splitlines())
    flat = " ".join(text.split())
    for found in (
        "0.942 0.918 to 0.959 0.251",
        "0.340 0.300 to 0.383 1.710",
        "prompt, given tuning +1.2 -0.8 to +6.2 0.420",
        "tuning alone +59.0 +54.0 to +63.0 < 0.001",
        "synergy -6.0 -10.0 to unknown 0.030",
        "(a) this arm also stands for prompt only",
        "Accuracy 0.942 on 500 sealed test rows (95% interval 0.918 to 0.959): nothing was learnt from or chosen on them. The "
        "winner scored 0.953 on 150 dev rows, where it was chosen: dev and test agree within their intervals.",
        "7 min 58 s · 1.2 M tokens scored · 640 k tokens trained · 2.1 M tokens saved by the shared prefix · "
        "2.1 GiB peak memory",
        "runs/trec6/best",
        "the searched [bold]prompt[/bold] gains",
        "cotune predict runs/trec6 --input",
    ):
        assert found in flat
    assert "…" not in text, "nothing is cut off"
    assert flat.count("no significant difference") == 1
    assert text.index("prompt, given tuning") < text.index("tuning alone") < text.index("prompt alone")
    assert text.index("seed prompt") < text.index("best prompt (a)") < text.index("best tuned")


def test_the_costs_say_why_the_search_ended_and_what_part_of_a_budget_of_tokens_was_spent() -> None:
    summary = SUMMARY | {"stopped": "no improvement in 2 cycles", "budget": "4Mtok"}
    why = "Why the search ended: no improvement in 2 cycles."
    assert f"{why} The run took 1.9 M tokens of its budget of 4Mtok." in " ".join(verdict_text(summary).split())
    text = " ".join(verdict_text(summary | {"budget": "10m"}).split())
    assert why in text and "of its budget" not in text, "the time is above"
    assert "Why the search" not in verdict_text(SUMMARY)


def test_tokens_of_written_answers_are_among_the_costs() -> None:
    summary = SUMMARY | {"cost": SUMMARY["cost"] | {"tokens_written": 98_000}}
    assert "1.2 M tokens scored · 98.0 k tokens written · 640 k tokens trained" in " ".join(verdict_text(summary).split())
    summary["cost"]["tokens_written"] = 0
    assert "written" not in verdict_text(summary)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ({"demonstrations": [{}] * 8}, "With 8 demonstrations before the row, in the bundle's prompt.json."),
        ({"demonstrations": [{}], "system": "Be short."}, "With 1 demonstration before the row, in the bundle's prompt.json."),
        ({"demonstrations": [{}] * 40, "nearest": 4}, "With the 4 of 40 demonstrations that are most like the row, in"),
        ({"demonstrations": [], "nearest": 0, "system": ""}, None),
    ],
)
def test_what_the_winning_prompt_shows_besides_is_told(prompt: dict[str, object], told: str | None) -> None:
    text = verdict_text({**SUMMARY, "best": {"prompt_text": "{input}", "prompt": prompt}}, width=120)
    assert told in text if told else "  With " not in text


def test_what_stands_in_the_system_text_and_in_label_words_is_shown() -> None:
    words = [["ham", "good"], ["spam", "spam"], *([f"l{n}", f"w{n}"] for n in range(30))]
    prompt = {"system": "Sort\x1b[31m the mail.", "label_words": words}
    text = verdict_text({"best": {"prompt_text": "{text}", "prompt": prompt}}, width=400)
    assert "  System text:\n  │ Sort\\x1b[31m the mail.\n  Text of each row:\n  │ {text}\n" in text
    told = next(line for line in text.splitlines() if "Labels by other words" in line)
    assert "ham → good, l0 → w0" in told and "spam" not in told and "l18 → w18, and 11 more" in told
    plain = verdict_text({"best": {"prompt_text": "{text}", "prompt": {"system": "", "label_words": [["a\nb", "a b"]]}}})
    assert "System text" not in plain and "other words" not in plain


def test_rows_that_were_cut_are_told_with_the_data() -> None:
    assert "Data\n  - 7 rows lost a part of the text under some prompt" in verdict_text({**SUMMARY, "truncated": 7}, width=120)
    assert "lost a part" not in verdict_text({**SUMMARY, "truncated": 0}, width=120)


def test_the_bundle_is_named_with_the_folder_of_its_run() -> None:
    text = verdict_text({"best": {"bundle": "best"}, "out": "runs/mine"}, width=80)
    assert "The bundle: prompt and weights in one folder\n  runs/mine/best\n" in text


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (0.04, -0.04, 0.0, -3.26, 1.0)] == ["0.0", "0.0", "0.0", "-3.3", "+1.0"]


def test_the_prompt_is_shown_literally() -> None:
    lines = verdict_text(SUMMARY, width=100).splitlines()
    start = lines.index("The winning prompt") + 1
    assert lines[start : start + 4] == [
        "  │ [bold]Classify[/bold] the 🙂 :smile: question: {labels}",
        "  │",
        "  │ שאלה مرحبا {text}",
        "  │ \\x1b[31m\\u202eType:",
    ]


def test_long_prompts_are_wrapped_behind_the_bar_and_cut_after_many_lines() -> None:
    summary = {"best": {"prompt_text": "\n".join(["word " * 30 + "x" * 90, *(f"line {n}" for n in range(100))])}}
    text = verdict_text(summary, width=60)
    assert text.replace("\n  │ ", "").count("x" * 90) == 1, "a word without end is folded, not lost"
    assert all(cell_len(line) <= 60 for line in text.splitlines())
    assert "line 38" in text and "line 39" not in text and "and 61 more lines" in text


def test_readings_depend_on_the_corrected_p_value() -> None:
    summary = copy.deepcopy(SUMMARY)
    wide = verdict_text(summary, width=120)
    assert re.search(r"prompt, given tuning .* no significant difference", wide)
    assert re.search(r"tuning alone .* a gain", wide)
    assert re.search(r"synergy  .* they overlap", wide)
    assert re.search(r"synergy, log-loss +0\.000 +- +- +the same arm", wide)
    summary["gains"]["prompt_given_tuning"].update(value=-0.03, p=0.01)
    assert re.search(r"prompt, given tuning +-3\.0 .* a loss", verdict_text(summary, width=120))
    summary["gains"]["prompt_given_tuning"].update(p=0.06, p_single=0.01)
    assert re.search(r"prompt, given tuning +-3\.0 .* no significant difference", verdict_text(summary, width=120))
    summary["gains"]["tuning"].update(within_noise=True)
    assert re.search(r"tuning alone .* within the noise of this machine", verdict_text(summary, width=120))
    for width in (60, 120):
        assert "within the noise of this machine" in verdict_text(summary, width=width)
        told = " ".join(verdict_text(summary, width=width).split())
        assert "is a significant difference, where it is not within the noise of this machine." in told
    assert "within the noise" not in verdict_text(SUMMARY, width=120)
    assert "is a significant difference. " in " ".join(verdict_text(SUMMARY, width=120).split())


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        ({"value": 0.1, "p": 0.01}, "gain"),
        ({"value": -0.1, "p": 0.01}, "loss"),
        ({"value": 0.1, "p": 0.05}, "no difference"),
        ({"value": 0.1, "p": 0.01, "within_noise": True}, "noise"),
        ({"value": 0.1, "p": 0.2, "within_noise": True}, "no difference"),
        ({"value": 0.0, "p": 1.0, "identical": True}, "same arm"),
        ({"value": 0.1}, None),
        ({"p": 0.01}, None),
    ],
)
def test_a_gain_is_what_its_p_value_and_the_noise_say(gain: dict[str, Any], outcome: str | None) -> None:
    assert gain_outcome(gain) == outcome


def test_robustness_takes_two_lines_and_noise_one() -> None:
    text = verdict_text(SUMMARY, width=300)
    assert (
        "The winning prompt in 3 other formats on 60 dev rows: base model 0.310 to 0.500, tuned model 0.880 to 0.910." in text
    )
    assert "Tuning makes the model less sensitive" in text
    assert "In other batches log-probabilities differ by 0.021 at most" in text and "1 of 48 answers flip" in text
    left_out = {**SUMMARY, "robustness": {"skipped": "no room"}, "noise": {"skipped": "no room"}}
    assert "Robustness" not in verdict_text(left_out) and "Noise" not in verdict_text(left_out)


def test_arms_that_differ_in_rule_alone_are_not_the_same() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["arms"]["best_prompt"]["decision"] = {"kind": "raw", "bias": []}
    assert "same prompt and weights" not in verdict_text(summary, width=100)


@pytest.mark.parametrize("width", [60, 120])
def test_an_arm_that_is_not_tuned_is_not_called_so(width: int) -> None:
    summary = copy.deepcopy(SUMMARY)
    assert ("winner's prompt, tuned model" in verdict_text(summary, width=120)) and "not tuned" not in verdict_text(summary)
    summary["arms"]["best_tuned"] |= {"adapter_id": "f" * 16, "readout": "probe", "layer": 20, "steps": 0}
    summary["arms"]["seed_tuned"]["adapter_id"] = "base"
    told = verdict_text(summary, width=width)
    assert "tuned model" not in told
    if width == 120:
        assert "winner's prompt, base model: not tuned" in told and "first prompt, base model: not tuned" in told


@pytest.mark.parametrize("width", [100, 110, 120])
def test_names_of_arms_stay_whole_beside_their_descriptions(width: int) -> None:
    summary = copy.deepcopy(SUMMARY)
    for arm in summary["arms"].values():
        arm |= {"decision": {"kind": "probe", "bias": []}, "layer": 20, "readout": "probe", "tfidf": True}
    text = verdict_text(summary, width=width)
    assert re.search(r"^  seed prompt +first prompt,", text, re.MULTILINE)
    assert re.search(r"^  best tuned +winner's", text, re.MULTILINE)


def test_the_bundle_that_a_run_started_from_is_not_taken_for_frozen() -> None:
    summary = copy.deepcopy(SUMMARY)
    old = {"adapter_id": "e" * 16, "readout": "probe", "layer": 20, "steps": 0}
    summary["arms"] |= {"previous": summary["arms"]["best_tuned"] | old, "best_tuned": summary["arms"]["best_tuned"] | old}
    assert "not tuned" not in verdict_text(summary, width=120)


def test_numbers_of_rows_are_told_apart_where_they_differ() -> None:
    summary = copy.deepcopy(SUMMARY)
    assert "The arms on the test split, 500 rows, accuracy" in verdict_text(summary, width=80)
    summary["arms"]["best_prompt"].update(n=150)
    text = verdict_text(summary, width=80)
    assert re.search(r"best prompt .* 150 ", text) and re.search(r"best tuned .* 500 ", text)
    assert "split, 500 rows" not in text


def test_a_damaged_summary_without_a_verdict_has_a_headline() -> None:
    assert verdict_text({**SUMMARY, "verdict": None}, width=100).startswith("The run has ended.\n\nThe arms on")
    assert verdict_text({}, width=80) == "The run has ended.\n"


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in pairs for found in [(*path, key), *_paths(item, (*path, key))]]


@pytest.mark.parametrize("instead", [None, "odd [/]", [7]])
def test_any_part_may_be_null_or_odd(instead: Any) -> None:
    # One arm and one gain stand for all of them.
    twins = set(SUMMARY["arms"]) - {"seed_prompt"} | set(SUMMARY["gains"]) - {"tuning"}
    for path in _paths(SUMMARY):
        if len(path) > 2 and path[1] in twins:
            continue
        summary = copy.deepcopy(SUMMARY)
        inner = summary
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = instead
        assert verdict_text(summary, width=80)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.integers(20, 130))
def test_any_text_at_any_width(text: str, width: int) -> None:
    summary = {**SUMMARY, "verdict": text, "best": {"bundle": text, "prompt_text": text}, "next": [text], "task": text}
    shown = verdict_text(summary, width=width)
    assert not CONTROL.search(shown.replace("\n", ""))
    shown.encode()


def test_printing_is_coloured_on_a_terminal_and_plain_elsewhere() -> None:
    terminal, pipe = io.StringIO(), io.StringIO()
    console = Console(file=terminal, width=80, force_terminal=True, color_system="truecolor", _environ={})
    print_verdict(SUMMARY, console)
    assert "\x1b[" in terminal.getvalue() and "\x1b[31m\u202e" not in terminal.getvalue()
    without = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "[bold]Classify[/bold] the 🙂 :smile: question" in without
    print_verdict(SUMMARY, Console(file=pipe, width=80, force_terminal=False))
    assert pipe.getvalue() == verdict_text(SUMMARY, width=80)
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii")
    print_verdict(SUMMARY, Console(file=ascii_only, width=80, force_terminal=True))
    assert b"| [bold]Classify[/bold] the \\U0001f642" in raw.getvalue() and b"\x1b" not in raw.getvalue()


def test_of_a_quiet_run_score_and_path_are_left() -> None:
    told = quiet_text({**SUMMARY, "best": {"bundle": "best"}, "out": "runs/trec6"})
    assert told == "accuracy 0.942 (0.918 to 0.959) on 500 test rows\nruns/trec6/best"
    assert quiet_text({}) == "no score"


def test_next_steps_name_the_folders_and_quote_them_for_a_shell() -> None:
    steps = next_steps({"best": {"bundle": "runs/my run/best"}})
    assert steps == [
        "Use it: cotune predict 'runs/my run' --input \"...\"",
        "Try a prompt of your own against it: cotune try 'runs/my run'",
        "See where it errs: cotune view 'runs/my run'",
    ]
    assert next_steps({"best": {"bundle": "best"}, "out": "runs/my run"}) == steps, "as a run's summary names it"
    assert next_steps({}) == []
    several = next_steps({"best": {"bundle": "best"}, "out": "runs/nli", "input": ["premise", "hypothesis"]})
    assert several[0] == 'Use it: cotune predict runs/nli --input premise="..." --input hypothesis="..."'


def test_next_steps_given_by_the_run_go_before_the_guessed_ones() -> None:
    text = verdict_text({**SUMMARY, "next": ["Do this [b]first[/b]."]}, width=80)
    assert "- Do this [b]first[/b]." in text and "larger budget" not in text
    assert "cotune predict runs/trec6 " in text


def test_more_rows_are_advised_only_where_the_interval_is_wide_and_open() -> None:
    def of(low: float | None, high: float | None, p: float) -> str | None:
        return more_rows({"gains": {"prompt_given_tuning": gain(0.01, low, high, p)}, "n": {"test": 120}})

    advice = of(-0.05, 0.09, 0.5)
    assert advice is not None and "more than 120 labelled rows" in advice and "14 points" in advice
    assert of(-0.01, 0.02, 0.5) is None, "narrow: there is no such difference"
    assert of(0.02, 0.16, 0.01) is None, "the difference is certain"
    assert of(None, 0.2, 0.5) is None and more_rows({}) is None


def test_a_larger_budget_is_advised_only_where_it_ended_the_run() -> None:
    def advised(stopped: str, cycles: list[Any]) -> str:
        return " ".join(improvements({"stopped": stopped, "cycles": cycles}))

    rising, flat = SUMMARY["cycles"], [*SUMMARY["cycles"], {"tuned": [{"score": 0.953}], "dev_score": 0.953}]
    spent = "the rest of the budget is reserved for the test"
    assert "larger budget, as the last cycle still gained" in advised(spent, rising)
    assert "larger budget, as this run ended while there were steps left" in advised(spent, flat)
    assert "larger budget" in advised("the rest is reserved for the test: a cycle needs 9 s, 2 left", flat)
    assert not advised("three cycles in a row did not improve", rising)
    assert not still_gaining([]) and not still_gaining([{"x": None}, {}])


def test_a_gain_is_the_winners_and_not_that_of_any_score_in_a_cycles_record() -> None:
    first, second = {"dev_score": 0.9, "dev_log_loss": 0.4}, {"dev_score": 0.9, "dev_log_loss": 0.3}
    assert not still_gaining([first]), "one cycle has none before it"
    raced = {**second, "race": {"best": {"score": 0.97}}, "tuned": [{"score": 0.95}]}
    assert not still_gaining([first, raced]), "a race sees a part of the rows, and a tuned prompt that lost is not the winner"
    assert still_gaining([first, second], by_loss=True) and not still_gaining([second, first], by_loss=True)
    assert still_gaining([{"dev_score": None, "dev_log_loss": 0.4}, {"dev_score": None, "dev_log_loss": 0.3}])
    probed = {"stopped": "the budget is spent", "cycles": [first, second], "arms": {"seed_prompt": {"readout": "probe"}}}
    assert "the last cycle still gained on held-out rows" in improvements(probed)[0]


@pytest.mark.parametrize(
    ("budget", "twice"), [("90s", "180s"), ("600000tok", "1200000tok"), ("1.5h", "3h"), ("2Mtok", "4Mtok")]
)
def test_the_command_for_a_larger_budget_leaves_the_folder_to_itself(budget: str, twice: str) -> None:
    summary = {"stopped": "the rest of the budget is reserved for the test", "budget": budget, "cycles": []}
    [step] = [step for step in improvements(summary) if "budget" in step]
    assert step.endswith(f"the same command with --budget {twice}")
    assert next_steps({**summary, "next": [step], "out": "runs/my run"}) == [step]
    assert parse_budget(twice).amount == 2 * parse_budget(budget).amount


def test_the_runs_own_command_is_advised_with_a_larger_budget_and_can_be_pasted() -> None:
    typed = "cotune run my.csv --input 'Customer message' --output team --budget 90s --json budget=2m"
    summary = {**SUMMARY, "stopped": "the budget is spent", "budget": "90s", "command": typed}
    [step] = [step for step in next_steps(summary) if "budget" in step]
    command = "cotune run my.csv --input 'Customer message' --output team --budget 180s"
    assert step.endswith(f": {command}")
    for width in (60, 100):
        shown = verdict_text(summary, width=width).splitlines()
        assert any(line.endswith((f"    {command}", f": {command}")) for line in shown), "on one line"


def test_a_stored_command_whose_quotes_do_not_close_does_not_stop_the_report() -> None:
    summary = {**SUMMARY, "stopped": "the budget is spent", "budget": "90s", "command": "cotune run 'my.csv"}
    [step] = [step for step in next_steps(summary) if "budget" in step]
    assert step.endswith("the same command with --budget 180s")


def test_rows_left_out_for_the_budgets_sake_are_no_reason_to_label_more() -> None:
    summary = {"n": {"train": 112, "dev": 48, "test": 30}, "given": {"labelled": 19500, "test": 500}, "budget": "2m"}
    gains = {"prompt_given_tuning": gain(0.01, -0.05, 0.09, 0.5)}
    [step] = improvements({**summary, "gains": gains, "stopped": "the budget is spent"})
    assert step == (
        "160 of 19,500 labelled rows were used and 30 of 500 test rows scored, as the budget had room for no more. "
        "Give it a larger budget: the same command with --budget 10m"
    )
    few = {**summary, "arms": {"best_tuned": {"score": 0.9, "n": 29, "ci": [0.7, 0.98]}}}
    [warning] = result_warnings(few)
    assert "29 of 500 were scored" in warning and "Label more rows" not in warning
    right = {"arms": {"best_tuned": {"score": 1.0, "n": 30}}, "references": {"tfidf": {"score": 1.0}}}
    assert not improvements({**summary, **right, "stopped": "the budget is spent"}), "there is nothing to gain"


def test_a_metric_with_a_tolerance_is_advised_for_fractions_that_are_rarely_right() -> None:
    def advised(kind: str, score: float, metric: str = "accuracy") -> bool:
        output = {"type": "number", "schema": {"type": kind}}
        return "within 10%" in " ".join(
            improvements({"output": output, "metric": metric, "arms": {"best_tuned": {"score": score}}})
        )

    assert advised("number", 0.0) and advised("number", 0.3)
    assert not advised("number", 0.8) and not advised("integer", 0.0) and not advised("number", 0.0, "within 1%")


def test_more_budget_and_rows_are_not_advised_where_all_answers_are_right() -> None:
    summary = {"n": {"train": 80, "dev": 20, "test": 20}, "stopped": "the budget is spent", "budget": "2m"}
    for score, count in ((0.9, 2), (1.0, 0)):
        assert len(improvements({**summary, "arms": {"best_tuned": {"score": score}}})) == count


@pytest.mark.parametrize(
    ("dev", "told"),
    [(0.95, "agree within their intervals"), (0.99, "4.8 points higher than on the test"), (0.80, "14.2 points lower than on")],
)
def test_dev_is_compared_with_the_test_only_outside_the_interval_of_the_test(dev: float, told: str) -> None:
    chosen = {"dev": dev, "test": 0.942, "optimism": dev - 0.942}
    assert told in " ".join(verdict_text({**SUMMARY, "selection": chosen}, width=200).split())


def test_few_rows_are_told() -> None:
    assert "Only 120 rows" in " ".join(improvements({"n": {"train": 120}}))
    assert not improvements({"n": {"train": 3000}})


def test_a_larger_budget_is_advised_where_rows_were_shortened() -> None:
    short = {"length": {"row": 128, "max_tokens": 150}, "budget": "1m"}
    (step,) = improvements(short)
    assert step.startswith("Rows were read up to about 128 tokens, as the budget is small for their length. Give it a larger")
    (step,) = improvements({**short, "n": {"train": 300, "dev": 90, "test": 30}, "given": {"labelled": 390, "test": 60}})
    assert step.startswith("30 of 60 test rows were scored, as the budget had room for no more; rows were read up to about 128")
    assert not improvements({**short, "length": None})


def test_probes_learn_from_train_and_dev() -> None:
    probed = {"arms": {"seed_prompt": {"readout": "probe"}}}
    assert "Only 290 rows were learnt from" in " ".join(improvements({**probed, "n": {"train": 200, "dev": 90}}))
    assert not improvements({**probed, "n": {"train": 250, "dev": 90}})
    assert "Only 250 rows were learnt from" in " ".join(improvements({"n": {"train": 250, "dev": 90}})), "dev only chooses"


def test_the_summary_survives_json() -> None:
    assert verdict_text(json.loads(json.dumps(SUMMARY)), width=80) == verdict_text(SUMMARY, width=80)


def frozen_summary() -> dict[str, Any]:
    """A run whose winner is a frozen probe, as is the seed prompt's arm that is named after tuning."""
    summary = copy.deepcopy(SUMMARY)
    first, best = ({"adapter_id": letter * 16, "readout": "probe", "layer": 20, "steps": 0} for letter in "ef")
    decision = {"decision": {"kind": "probe", "bias": []}}
    for name, arm in summary["arms"].items():
        arm |= {**(first if "seed" in name else best), **decision, "candidate_id": "s" if "seed" in name else "b"}
        arm["prompt_id"] = "p1" if "seed" in name else "p2"
    summary["gains"] = {name: gain(0.033, 0.01, 0.06, 0.01) for name in ("prompt", "both", "prompt_given_tuning")}
    summary["gains"]["tuning"] = gain(0.0, 0.0, 0.0, 1.0, identical=True)
    summary["prompts_tuned"] = 2
    return summary


@pytest.mark.parametrize("width", [60, 80, 120])
def test_arms_with_one_prompt_and_one_set_of_weights_are_one_row(width: int) -> None:
    text = " ".join(verdict_text(frozen_summary(), width=width).split())
    told = "(b) as no tuning step paid off, this arm also stands for prompt only and best tuned"
    assert told in text and "(a) as it was not tuned, this arm also stands for seed tuned" in text
    rows = re.findall(r"(seed prompt|best prompt|prompt only|seed tuned|best tuned) (?:\([ab]\) )?[^0]*0\.\d{3} 0\.", text)
    assert width == 60 or rows == ["seed prompt", "best prompt"]
    assert text.count("+3.3") == 1 and "not shown again: winner over seed prompt (as prompt alone)." in text
    never = verdict_text({**frozen_summary(), "prompts_tuned": 0}, width=200)
    assert "(a) as nothing was tuned, this arm" in never and "paid off" not in never


def only_winner_tuned() -> dict[str, Any]:
    """A run whose budget had no room for tuning the seed prompt."""
    summary = frozen_summary()
    tuned = {"adapter_id": "t" * 16, "steps": 12, "candidate_id": "t", "score": 0.9, "ci": [0.85, 0.94]}
    summary["arms"]["best_tuned"] |= tuned
    won = gain(0.1, 0.05, 0.15, 0.001)
    summary["gains"] |= {"both": won, "prompt_given_tuning": won, "synergy": gain(0.067, 0.02, 0.11, 0.004)}
    summary["gains"]["synergy_log_loss"] = gain(0.05, 0.01, 0.09, 0.01)
    return summary


def test_a_seed_prompt_that_was_not_tuned_says_nothing_of_tuning() -> None:
    summary = only_winner_tuned()
    text = " ".join(verdict_text(summary, width=120).split())
    assert "(a) as it was not tuned, this arm also stands for seed tuned" in text
    assert "tuning alone" not in text and "synergy" not in text and "more together" not in text
    assert re.search(r"tuning, winner's prompt \+6\.7 \+2\.0 to \+11\.0 0\.004 a gain", text)
    assert re.search(r"tuning, winner's prompt, log-loss \+0\.050 ", text)
    page = summary_html(summary)
    assert "tuning, winner" in page and "synergy" not in page


def test_a_run_that_tuned_nothing_shows_no_gain_of_tuning() -> None:
    summary = only_winner_tuned()
    summary["arms"]["best_tuned"] |= {"adapter_id": "base", "steps": 0}
    none = gain(0.0, 0.0, 0.0, 1.0, identical=True)
    summary["gains"] |= dict.fromkeys(("tuning", "synergy", "synergy_log_loss"), none)
    told = verdict_text(summary, width=120)
    assert "winner over seed prompt" in told
    assert "tuning alone" not in told and "synergy" not in told


def test_an_old_bundle_that_ships_is_no_winner_tuned_alone() -> None:
    summary = only_winner_tuned()
    summary["arms"]["previous"] = dict(summary["arms"]["best_tuned"])
    assert "tuning, winner's prompt" not in verdict_text(summary, width=120)


def test_more_rows_are_advised_by_the_prompts_own_gain() -> None:
    wide, clear = gain(0.05, -0.1, 0.2, 0.4), gain(0.2, 0.1, 0.3, 0.001)
    summary = only_winner_tuned()
    summary["gains"] |= {"prompt": wide, "prompt_given_tuning": clear}
    assert "the interval of its gain is 30 points wide" in (more_rows(summary) or "")
    summary["gains"] |= {"prompt": clear, "prompt_given_tuning": wide}
    assert more_rows(summary) is None
    # The winner is the tuned seed prompt: what is wide is the gain of its tuning.
    same = gain(0.0, 0.0, 0.0, 1.0, identical=True)
    assert more_rows({"gains": {"prompt_given_tuning": same, "both": wide}, "n": {"test": 120}}) is None


def test_a_run_with_one_arm_has_no_table_of_gains() -> None:
    none = gain(0.0, 0.0, 0.0, 1.0, identical=True)
    one = {**frozen_summary(), "gains": dict.fromkeys(("prompt", "tuning", "both", "prompt_given_tuning"), none)}
    for summary, shown in ((frozen_summary(), True), (one, False)):
        assert ("Gains, in points" in verdict_text(summary, width=80)) is shown
        assert ("Gains, in points" in summary_html(summary)) is shown


def test_labelled_rows_in_the_bundle_are_told() -> None:
    best = SUMMARY["best"] | {"prompt": {"demonstrations": [{}] * 4}}
    assert "The bundle holds 4 labelled rows of your data, as demonstrations in its prompt" in verdict_text(
        {**SUMMARY, "best": best}, width=200
    )
    assert "labelled rows of your data" not in verdict_text(SUMMARY, width=200)
