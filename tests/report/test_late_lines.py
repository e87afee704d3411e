"""What the terminal tells of a search that knows log-losses and no scores."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cotune.prompt.prompt import Prompt
from cotune.report.terminal.console import LiveView
from cotune.report.terminal.lines import PlainView
from cotune.report.terminal.narration import Story, measured

ASKED = Prompt(instruction="Say it.", input_template="{text}", cue="")
EVENTS = [
    ("pool", {"cycle": 1, "proposals": [{"prompt": ASKED.to_json(), "source": "bank"}]}),
    ("race", {"cycle": 1, "ranking": [ASKED.id], "best": {"prompt_id": ASKED.id, "score": None, "log_loss": 0.8241}}),
    ("tuned", {"cycle": 1, "prompt_id": ASKED.id, "steps": 10, "score": None, "log_loss": 0.512751}),
    ("tuned", {"cycle": 1, "prompt_id": "other", "steps": 10, "score": None, "log_loss": 0.791614}),
    ("tuned", {"cycle": 2, "prompt_id": ASKED.id, "steps": 20, "score": None, "log_loss": 0.374529}),
]


def test_lines_leave_the_score_out_and_tell_the_best_by_its_log_loss() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for number, (kind, value) in enumerate(EVENTS):
        view.event({"n": number, "kind": kind, "value": value, "active_s": 1.0})
    told = [line.split("] ", 1)[1] for line in stream.getvalue().splitlines()]
    name = "“Say it. {text}”"
    assert told[1:] == [
        f"cycle 1: 1 prompt raced on the base model: best log-loss 0.824 with {name}",
        f"cycle 1: tuned after 10 steps, dev log-loss 0.513 with {name}: best so far",
        "cycle 1: tuned after 10 steps, dev log-loss 0.792 with other",
        f"cycle 2: tuned after 20 steps, dev log-loss 0.375 with {name}: best so far",
    ]


def test_the_live_view_has_the_log_loss_for_the_best_on_dev() -> None:
    console = Console(file=io.StringIO(), width=90, height=30, record=True, _environ={})
    view = LiveView(console)
    for kind, value in EVENTS:
        view.event({"kind": kind, "value": value, "active_s": 1.0})
    console.print(view.render())
    [best] = [line for line in console.export_text().splitlines() if "best dev" in line]
    assert best.strip("│ ").split() == ["best", "dev", "log-loss", "0.375", "0.824", "→", "0.513", "→", "0.375"]


def test_a_score_goes_before_every_log_loss() -> None:
    story = Story()
    assert story.saw_score({"score": None, "log_loss": 0.1, "prompt_id": "a"})
    assert story.saw_score({"score": 0.2, "log_loss": 3.0, "prompt_id": "b"})
    assert story.trail == [0.2], "a trail is of one kind"
    assert not story.saw_score({"score": None, "log_loss": 0.01, "prompt_id": "c"})
    assert not story.saw_score({"score": None, "log_loss": None, "prompt_id": "d"})
    assert story.best == (0.2, 3.0, "b")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"score": 0.9312, "log_loss": 0.3119}, "0.931, log-loss 0.312"),
        ({"score": None, "log_loss": 0.3119}, "log-loss 0.312"),
        ({"score": 0.9312, "log_loss": None}, "0.931"),
        ({}, "-"),
    ],
)
def test_what_is_not_known_is_left_out(value: dict[str, float | None], told: str) -> None:
    assert measured(value) == told
