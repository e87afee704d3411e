"""The live view, the plain lines and the JSON lines, fed with every kind of event."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cotune.prompt.prompt import Demonstration, Prompt
from cotune.report.terminal.console import LiveView, make_view
from cotune.report.terminal.lines import JsonView, PlainView, RunView
from cotune.report.terminal.narration import Story
from cotune.report.terminal.pace import Pace

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
ODD = Prompt(instruction="[bold]Classify[/bold] 🙂 :smile: \x1b[31mשאלה\u202e", input_template="{text}")
BARE = Prompt(input_template="{text}")
SHOWN = Prompt(input_template="Q: {text}", demonstrations=(Demonstration((("text", "a"),), "x"),))

EVENTS: list[tuple[str, Any]] = [
    ("engine", {"device": "cpu", "dtype": "bfloat16", "threads": 2, "gemm_gflops": 313.64, "probe": {"threads": 2}}),
    (
        "start",
        {
            "task": "trec6",
            "n": {"train": 350, "dev": 150, "test": 500},
            "model": "smollm2-135m",
            "budget": "8 min",
            "seed": 0,
            "device": "cpu",
            "dtype": "bfloat16",
            "threads": 2,
        },
    ),
    ("plan", {"text": ["24 prompts, raced over 128 rows", "4 of them tuned for 24 steps"], "pool": 24}),
    (
        "pool",
        {
            "cycle": 1,
            "proposals": [{"prompt": p.to_json(), "source": "edit", "parents": [], "operator": ""} for p in (ODD, BARE, SHOWN)],
            "near_duplicates": 2,
        },
    ),
    ("score", {"stage": "race", "prompt_id": ODD.id, "adapter_id": "base", "rows": 16, "score": 0.99, "log_loss": 0.1}),
    ("clock", 12.5),
    (
        "race",
        {
            "cycle": 1,
            "adapter_id": "base",
            "ranking": [ODD.id, BARE.id],
            "best": {"prompt_id": ODD.id, "score": 0.412, "log_loss": 1.6},
            "dropped": [SHOWN.id],
        },
    ),
    ("entrants", {"cycle": 1, "prompt_ids": [ODD.id, BARE.id]}),
    ("train", {"prompt_id": BARE.id, "adapter_id": "a1", "steps": 24, "loss": 0.71, "tokens": 30000, "seconds": 24.0}),
    ("train", {"prompt_id": SHOWN.id, "steps": 7, "failed": "the loss became NaN", "tokens": 3000}),
    ("tuned", {"cycle": 1, "prompt_id": BARE.id, "adapter_id": "a1", "steps": 24, "score": 0.853, "log_loss": 0.41}),
    ("tuned", {"cycle": 2, "prompt_id": ODD.id, "adapter_id": "a2", "steps": 24, "score": 0.801, "log_loss": 0.5}),
    ("decide", {"next": "tune", "why": "tuning moved dev most"}),
    ("cycle", {"cycle": 2, "dev_score": 0.853, "dev_log_loss": 0.41, "steps": 24, "winner": BARE.id, "race": {"dropped": []}}),
    (
        "confirm",
        {
            "arms": {"seed_prompt": {}, "best_tuned": {}},
            "chosen": {"id": "h2"},
            "dev": {"seed_prompt": {"score": 0.4, "log_loss": 1.5}, "best_tuned": {"score": 0.86, "log_loss": 0.4}},
        },
    ),
    ("open_test", {"arms": {"seed_prompt": "h1", "best_tuned": "h2"}}),
    ("arm", {"name": "best_tuned", "score": 0.84, "log_loss": 0.43, "n": 500}),
    ("cost", {"peak_rss_mb": 2746, "wall_s": 779.1}),
    ("done", {"bundle": "best", "score": 0.84}),
    ("note", {"text": "resuming a run"}),
    ("never_heard_of", {"a": 1, "deep": {"list": list(range(99))}, "text": "x" * 500, "none": None}),
    ("bare_number", 3),
]


def event(kind: str, value: Any, at: float = 0.0) -> dict[str, Any]:
    return {"n": -1 if kind == "note" else 0, "kind": kind, "key": "k", "active_s": at, "value": value}


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def live_text(width: int, feed: Callable[[LiveView, Hands], None], height: int = 30) -> str:
    hands = Hands()
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    view = LiveView(console, now=hands)
    feed(view, hands)
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def feed_all(view: Any, hands: Hands | None = None) -> None:
    for number, (kind, value) in enumerate(EVENTS):
        view.event(event(kind, value, at=10.0 * number))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_view_keeps_to_its_width_and_shows_what_counts(width: int) -> None:
    def feed(view: LiveView, hands: Hands) -> None:
        feed_all(view)
        view.set_time_left(75)
        for _ in range(4):
            hands.time += 2.0
            view.progress("tune", "step 5/24, loss 0.5: " + ODD.text, 4000)

    text = live_text(width, feed)
    lines = text.splitlines()
    from rich.cells import cell_len

    assert {cell_len(line) for line in lines} == {width}
    assert not CONTROL.search(text.replace("\n", ""))
    assert "trec6" in text and "tuning in cycle 2" in text
    assert "0.853" in text and "0.412 → 0.853" in text
    assert "2,000 tokens/s" in text
    assert "of 8 min" in text and "about 1 min 07 s left" in text
    assert "[bold]Classify[/bold]" in text, "markup in a prompt is no markup"
    assert len(lines) <= 18


@pytest.mark.parametrize("width", [60, 80])
def test_long_events_go_on_in_the_next_line(width: int) -> None:
    value = {"text": "after 31 s: 0.92 (0.89 to 0.94), cross-fitted on 500 rows; TF-IDF with logistic regression 0.79"}
    text = live_text(width, lambda view, hands: view.event(event("verdict", value, at=31.0)))
    told = " ".join(" ".join(line.strip("│ ") for line in text.splitlines()).split())
    assert "logistic regression 0.79; a usable bundle (prompt and read-out) is in best" in told and "…" not in text
    endless = live_text(width, lambda view, hands: view.event(event("note", {"text": "word " * 200}, at=31.0)))
    assert len(endless.splitlines()) <= 18 and "…" in endless


def test_how_the_output_was_guessed_is_told_once() -> None:
    value = {"task": "t", "output": "the output is a label", "checks": ["3 rows repeat", "the output is a label"]}
    told = [line.text for line in Story().tell({"kind": "start", "value": value})]
    assert told.count("the output is a label") == 1 and "data: 3 rows repeat" in told
    assert not any(line.startswith("data: the output") for line in told)


def test_what_comes_next_is_told_with_its_reason() -> None:
    def told(step: str) -> str:
        return Story().tell({"kind": "decide", "value": {"next": step, "why": "the rest is reserved"}})[0].text

    assert told("finish") == "finishing: the rest is reserved" and told("prompts") == "next: new prompts: the rest is reserved"


def test_live_view_before_anything_happened_and_in_a_low_terminal() -> None:
    assert "loading the model" in live_text(80, lambda view, hands: None)
    assert len(live_text(80, lambda view, hands: feed_all(view), height=12).splitlines()) <= 12


def test_a_race_on_few_rows_is_not_the_best_but_a_judged_candidate_is() -> None:
    story = Story()
    for kind, value in EVENTS:
        story.tell(event(kind, value))
    assert story.best is not None and story.best[:2] == (0.853, 0.41) and "{text}" in story.best[2]
    assert story.trail == [0.412, 0.853]
    assert story.cycle == 2
    assert story.saw_score({"score": 0.853, "log_loss": 0.40, "prompt_id": BARE.id}), "ties go by log-loss"
    assert not story.saw_score({"score": 0.853, "log_loss": 0.40, "prompt_id": BARE.id})
    assert not story.saw_score({"score": 0.853, "log_loss": None, "prompt_id": BARE.id})
    assert not story.saw_score({"score": float("nan"), "log_loss": 0.1})


def test_a_prompt_that_instructs_in_its_system_text_is_marked() -> None:
    story, prompt = Story(), BARE.edit(system="Sort the mail.")
    story.learn(prompt.to_json())
    assert story.prompt(prompt.id) == "“[+system text] {text}”"


def test_a_text_that_is_cut_still_tells_of_its_demonstrations() -> None:
    story, seed = Story(), BARE.edit(instruction="Sort the mail into one of the many folders of this company.")
    shown = seed.edit(demonstrations=(Demonstration((("text", "x"),), "a"),))
    for prompt in (seed, shown):
        story.learn(prompt.to_json())
    assert story.prompt(seed.id, 40) == "“Sort the mail into one of the many fold…”"
    assert story.prompt(shown.id, 40) == "“Sort the mail into o… [+1 demonstration]”"


def test_a_frozen_probe_is_told_once_although_it_is_fitted_with_names_of_labels_too() -> None:
    story = Story()
    frozen = {
        "cycle": 1,
        "stage": "frozen",
        "readout": "probe",
        "prompt_id": "x",
        "adapter_id": "base",
        "rows": 9,
        "log_loss": 0.5,
    }
    told = [
        story.tell(event("tuned", {**frozen, **other}))
        for other in ({}, {"log_loss": 0.4}, {"prompt_id": "y"}, {"rows": 12}, {"cycle": 2})
    ]
    assert list(map(len, told)) == [1, 0, 1, 1, 1]


def test_every_documented_step_is_worded_or_left_out() -> None:
    files = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    table = files.partition("| kind | value |")[2].partition("\n\n")[0]
    kinds = {kind for line in table.splitlines()[2:] for kind in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert {"race", "look", "test_room"} <= kinds
    value = {"rows": 3, "text": "in words"}
    told = {kind: [line.text for line in Story().tell({"kind": kind, "value": value})] for kind in kinds}
    plain = {kind for kind, lines in told.items() if f"{kind}: rows 3, text in words" in lines}
    assert not plain, "the journal's own words"


def test_rows_that_are_cut_are_told_once_and_once_for_the_test() -> None:
    story = Story()
    score = {"stage": "race", "prompt_id": BARE.id, "rows": 16, "score": 0.9, "log_loss": 0.1}
    found = [
        [told.text for told in story.tell(event(kind, {**score, "stage": stage, "truncated": cut}))]
        for kind, stage, cut in (
            ("score", "race", 0),
            ("score", "race", 2),
            ("score", "race", 3),
            ("write", "test", 4),
            ("score", "test", 5),
        )
    ]
    assert [len(lines) for lines in found] == [0, 1, 0, 1, 0]
    assert found[1][0].startswith("2 of 16 rows were longer") and found[3][0].startswith("4 of 16 test rows were longer")


def test_live_view_draws_by_itself_and_gives_the_terminal_back() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=30, force_terminal=True, color_system="truecolor", _environ={})
    view = LiveView(console)
    view.start()
    feed_all(view)
    before = threading.active_count()
    view.progress("confirm", "x", 10)
    view.close()
    view.close()
    # The refreshing thread is told to end, and ends when it next runs.
    for _ in range(3000):
        if threading.active_count() < before:
            break
        time.sleep(0.02)
    assert threading.active_count() < before
    shown = stream.getvalue()
    assert "of 8 min" in shown
    assert "ended" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert "\x1b[31mש" not in shown, "a prompt's own escape codes never reach the terminal"


def test_nothing_is_drawn_before_a_first_step() -> None:
    """Most of what is wrong with a run shows before it, and a frame of empty rows would stand above the error."""
    stream = io.StringIO()
    view = LiveView(Console(file=stream, width=80, height=30, force_terminal=True, _environ={}))
    view.start()
    view.event({"n": -1, "kind": "note", "value": {"text": "reading the [rows]"}})
    assert "reading the [rows]" in stream.getvalue() and "speed" not in stream.getvalue()
    view.event({"n": 0, "kind": "engine", "active_s": 1.0, "value": {"device": "cpu"}})
    view.close()
    assert "speed" in stream.getvalue()


def test_plain_lines_tell_every_notable_event_once() -> None:
    stream = io.StringIO()
    view = PlainView(stream, now=Hands())
    feed_all(view)
    view.close()
    text = stream.getvalue()
    lines = text.splitlines()
    assert not CONTROL.search(text.replace("\n", ""))
    assert all(re.match(r"\[\d\d:\d\d\] \S", line) for line in lines)
    told = {
        "trec6: 350 train, 150 dev, 500 test rows · smollm2-135m on cpu bfloat16, 2 threads · budget 8 min · seed 0",
        "24 prompts, raced over 128 rows",
        "4 of them tuned for 24 steps",
        "cycle 1: 3 prompts to try (3 edited), 2 near-duplicates dropped",
        "trained to step 24 with “{text}”: loss 0.710, 30.0 k tokens in 24 s",
        "training failed at step 7 with “Q: {text} [+1 demonstration]”: the loss became NaN",
        "cycle 1: tuned after 24 steps, dev 0.853, log-loss 0.410 with “{text}”: best so far",
        "next: more tuning: tuning moved dev most",
        "computing with cpu bfloat16 in 2 threads, 314 GFLOP/s",
        "cycle 2: ends at dev 0.853, log-loss 0.410 after 24 steps with “{text}”",
        "confirmed on all 150 dev rows: best tuned 0.860, log-loss 0.400; seed prompt 0.400, log-loss 1.500",
        "this took 12 min 59 s and 2.7 GiB of memory at most",
        "done with 0.840 on test, the bundle is in best",
        "the test rows, sealed until now, are scored once, for 2 arms (a prompt with weights each)",
        "test, best tuned: 0.840, log-loss 0.430 on 500 test rows",
        "resuming a run",
        "bare_number: 3",
    }
    bodies = [line.split("] ", 1)[1] for line in lines]
    assert told <= set(bodies), told - set(bodies)
    assert any(body.startswith("never_heard_of: a 1, deep (1), text xxx") for body in bodies)
    assert "\\x1b[31mשאל" in text, "control characters are spelled, letters stay"
    assert "0.990" not in text, "single scoring steps are not told"
    assert lines[-1].startswith("[03:30]")


def test_plain_lines_say_now_and_then_what_goes_on() -> None:
    stream, hands = io.StringIO(), Hands()
    view = PlainView(stream, now=hands, heartbeat=60)
    view.set_time_left(600)
    for _ in range(40):
        hands.time += 5
        view.progress("tune", "step 1/9\nof it", 500)
    lines = stream.getvalue().splitlines()
    assert lines == [
        f"[0{minute}:00] tuning: step 1/9 of it, 100 tokens/s, about {10 - minute} min 00 s left" for minute in (1, 2, 3)
    ]


def test_json_lines_are_objects_and_lose_no_tokens() -> None:
    stream, hands = io.StringIO(), Hands()
    view = JsonView(stream, now=hands)
    view.set_time_left(30)
    for number in range(25):
        hands.time += 0.2
        view.progress("tune" if number < 20 else "test", "\x1b[1m" + ODD.text, 7)
    feed_all(view)
    view.event(event("odd", {"nan": math.nan, "inf": [math.inf], "other": object(), "tuple": (1, 2)}))
    view.progress("test", "last", 1)
    view.close()
    assert not CONTROL.search(stream.getvalue().replace("\n", "")) and stream.getvalue().isascii()
    objects = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in stream.getvalue().splitlines()]
    progress = [item for item in objects if item["kind"] == "progress"]
    assert sum(item["tokens"] for item in progress) == 25 * 7 + 1
    assert sum(item["tokens"] for item in progress if item["stage"] == "tune") == 20 * 7
    assert len(progress) < 12, "at most about one a second"
    assert 20 < progress[0]["time_left_s"] < 30
    events = [item for item in objects if item["kind"] != "progress"]
    assert [[item["kind"], item["value"]] for item in events[:-1]] == json.loads(json.dumps([list(pair) for pair in EVENTS]))
    assert events[-1]["value"]["nan"] is None and events[-1]["value"]["inf"] == [None]


KEYS = (
    *(
        "task",
        "n",
        "model",
        "threads",
        "cycle",
        "proposals",
        "prompt",
        "source",
        "dropped",
        "ranking",
        "best",
        "score",
        "log_loss",
    ),
    *(
        "prompt_ids",
        "prompt_id",
        "steps",
        "loss",
        "tokens",
        "seconds",
        "failed",
        "name",
        "arms",
        "text",
        "next",
        "why",
        "stage",
    ),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=4),
            inner,
            max_size=8,
        )
    ),
    max_leaves=20,
)
KINDS = st.sampled_from([kind for kind, _ in EVENTS]) | st.text(max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(KINDS, JSON_VALUES), max_size=6))
def test_no_event_however_odd_breaks_a_view(found: list[tuple[str, Any]]) -> None:
    plain, machine = io.StringIO(), io.StringIO()
    views = [PlainView(plain), JsonView(machine), RunView()]

    def feed(view: Any, hands: Hands | None = None) -> None:
        for kind, value in found:
            view.event(event(kind, value))
        view.event({"kind": found[0][0]} if found else {})

    for view in views:
        feed(view)
    assert not CONTROL.search(plain.getvalue().replace("\n", ""))
    for line in machine.getvalue().splitlines():
        json.loads(line)
    live_text(60, feed)


def test_pace_is_a_rolling_rate_and_counts_down() -> None:
    hands = Hands()
    pace = Pace(hands, window=10)
    assert pace.rate is None and pace.left is None
    for _ in range(20):
        hands.time += 1
        pace.saw_tokens(100)
    assert pace.rate == pytest.approx(100)
    for _ in range(12):
        hands.time += 1
        pace.saw_tokens(300)
    assert pace.rate == pytest.approx(300), "what lies before the window is forgotten"
    assert pace.tokens == 20 * 100 + 12 * 300
    pace.set_left(5)
    hands.time += 3
    assert pace.left == pytest.approx(2)
    hands.time += 60
    assert pace.left == 0 and pace.rate is None
    pace.saw_event({"active_s": 7.0})
    hands.time += 2
    assert pace.elapsed == pytest.approx(9), "the active time is the journal's, earlier sessions included"


def test_the_view_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(make_view(True, True, io.StringIO(), True), JsonView)
    assert isinstance(make_view(False, True, io.StringIO(), True), RunView)
    assert isinstance(make_view(False, False, io.StringIO(), False), PlainView)
    view = make_view(False, False, io.StringIO(), True)
    assert isinstance(view, LiveView)
    view.close()
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert isinstance(make_view(False, False, ascii_only, True), PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_view(False, False, io.StringIO(), True), PlainView)


def test_a_stream_without_unicode_gets_spelled_characters() -> None:
    raw = io.BytesIO()
    view = PlainView(io.TextIOWrapper(raw, encoding="ascii"))
    feed_all(view)
    text = raw.getvalue().decode("ascii")
    assert '"{text}"' in text and " - budget 8 min - " in text and "\\U0001f642" in text


@pytest.mark.parametrize("kind", [PlainView, JsonView])
def test_a_reader_that_leaves_does_not_end_the_run(kind: type[Any]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), os.fdopen(writing, "w") as stream:
        view = kind(stream)
        feed_all(view)
        view.progress("tune", "on", 1)
        view.close()
    feed_all(view)


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, cotune.report\n"
        "print(sorted({'rich', 'torch', 'numpy', 'pandas', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_clock_of_a_resumed_run_goes_on_from_the_time_already_spent() -> None:
    stream, now = io.StringIO(), [100.0]
    view = PlainView(stream, now=lambda: now[0])
    view.event({"n": -1, "kind": "note", "value": {"text": "reading the rows"}})
    view.event({"n": 6, "kind": "note", "active_s": 83.0, "value": {"text": "resuming a run"}})
    now[0] += 2
    view.event({"n": -1, "kind": "note", "value": {"text": "loading the model"}})
    assert [line.split("]")[0] for line in stream.getvalue().splitlines()] == ["[00:00", "[01:23", "[01:25"]


def test_a_resumed_run_shows_prompts_of_earlier_sessions_by_their_text() -> None:
    stream = io.StringIO()
    view = PlainView(stream, now=Hands())
    assert view.wants_history
    view.event({"n": 2, "kind": "note", "active_s": 83.0, "value": {"text": "resuming a run"}})
    proposals = [{"prompt": BARE.to_json(), "source": "seed"}]
    view.event({"n": 1, "kind": "pool", "active_s": 5.0, "value": {"cycle": 1, "proposals": proposals}})
    view.event({"n": 3, "kind": "train", "active_s": 85.0, "value": {"prompt_id": BARE.id, "steps": 4, "loss": 0.5}})
    lines = stream.getvalue().splitlines()
    assert lines == ["[01:23] resuming a run", "[01:25] trained to step 4 with “{text}”: loss 0.500"]


def test_a_better_bundle_is_told_with_the_one_before() -> None:
    """By its log-loss, which decides: its accuracy may be lower, as here."""
    value = {"score": 0.8, "log_loss": 0.41, "n": 90, "before": {"score": 0.81, "log_loss": 0.5}}
    (line,) = Story().tell({"kind": "better", "value": value})
    said = "is in best: 0.800, log-loss 0.410 on 90 labelled rows held out from it"
    assert line.text == f"a better bundle by log-loss {said}; before: 0.810, log-loss 0.500"
    (line,) = Story().tell({"kind": "better", "value": {**value, "before": {"score": 0.79, "log_loss": 0.5}}})
    assert line.text == f"a better bundle {said}; before: 0.790, log-loss 0.500"
    # It may have been judged on other rows.
    (line,) = Story().tell({"kind": "better", "value": {"score": 0.8, "n": 90}})
    assert line.text == "a better bundle is in best: 0.800 on 90 labelled rows held out from it"


def test_one_of_a_kind_is_told_in_the_singular() -> None:
    story = Story()
    one = {"steps": 1, "rows": 1, "n": 1, "score": 0.5, "log_loss": 0.7, "stage": "tune", "readout": "probe", "window": [0, 2]}
    found = [told.text for kind in ("train", "tuned", "better", "arm") for told in story.tell({"kind": kind, "value": one})]
    assert len(found) == 4
    assert all(re.search(r"\b1 (step|(labelled |test )?row)\b", text) for text in found), found
    assert not any("1 steps" in text or "1 rows" in text for text in found), found
