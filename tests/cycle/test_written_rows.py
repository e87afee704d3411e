"""A teacher writes rows for labels that are confused: what is asked, what is refused, and that nothing is paid twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import journal_of, summary_of

from chat_server import Handler, Reply, chat_server, send
from cotune.config import config_from_data
from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.splits import Split
from cotune.cycle.teaching.confusion import ConfusedPair, confused_pairs
from cotune.cycle.teaching.write import check_writing, with_written
from cotune.cycle.teaching.writing import (
    COPIED,
    FORM,
    LABEL,
    LONG,
    MANY,
    NEAR,
    NO_LIST,
    ROWS,
    TEST,
    Asking,
    Draft,
    Drafts,
    messages_for,
    plan,
    repeats,
    take,
)
from cotune.errors import InputError
from cotune.probe import cross_fit
from cotune.prompt.bank import seed_prompt
from cotune.refine.copied import RowGrams
from cotune.task.example import Example
from cotune.task.task import Task
from labelling_server import WORDS

if TYPE_CHECKING:
    from conftest import Bench

CANARY = "sk-writer-0043"
BUYS = ("please send me two new kettles", "how many kettles come in a box", "which of the lamps is the brightest one")
BROKEN = ("the kettle that came on friday leaks", "my lamp flickers whenever it rains", "one leg of the chair has come off")
HELD = "a wheel fell off the trolley this morning already"


@pytest.fixture(scope="module")
def task() -> Task:
    rows = [{"text": text, "label": "sale"} for text in BUYS] + [{"text": text, "label": "repair"} for text in BROKEN]
    names = ["anna", "bert", "cleo", "dora", "emil", "frida", "gustav", "hanna", "igor", "jana", "karl", "lena"]
    rows += [{"text": f"{name} calls again", "label": ("sale", "repair")[n % 2]} for n, name in enumerate(names)]
    dev = [{"text": "are the chairs sold in pairs only", "label": "sale"}, {"text": "the tap drips", "label": "repair"}]
    test = [{"text": HELD, "label": "repair"}, {"text": "do you have this in green", "label": "sale"}]
    return Task.from_rows(rows, dev=dev, test=test, input="text", output="label", name="shop")


def asking(task: Task) -> Asking:
    return Asking(("repair", "sale"), task.train[:2])


def taken(task: Task, text: str) -> Drafts:
    drafts = Drafts()
    take(text, asking(task), task, RowGrams(task), drafts, 3)
    return drafts


def rows_said(*rows: tuple[str, str]) -> str:
    return json.dumps({"rows": [{"text": text, "label": label} for text, label in rows]})


def test_what_is_sound_is_taken_and_the_rest_is_counted(task: Task) -> None:
    good = ("is there a discount for ten tables", "sale")
    found = taken(task, f"Here you are:\n```json\n{rows_said(good)}\n```")
    assert [(d.row.id, d.row.fields, d.row.output) for d in found.taken] == [("written:3.0", {"text": good[0]}, "sale")]
    assert found.taken[0].shown == tuple(row.id for row in task.train[:2]) and not +found.refused
    said = {
        "no json at all": NO_LIST,
        '{"rows": [{"text": "half a row", "lab': NO_LIST,
        '{"rows": ["a text alone"]}': NO_LIST,
        json.dumps({"rows": [{"text": 7, "label": "sale"}]}): FORM,
        json.dumps({"rows": [{"text": " ... ", "label": "sale"}]}): FORM,
        json.dumps({"rows": [{"text": "bell \x07 rings", "label": "sale"}]}): FORM,
        json.dumps({"rows": [{"text": "no label here"}]}): FORM,
        rows_said(("who wrote this book", "question")): LABEL,
        rows_said(("long " * 100, "sale")): LONG,
        rows_said((f"hello, {BUYS[2]}, thanks", "sale")): COPIED,
    }
    for text, why in said.items():
        refused = taken(task, text)
        assert +refused.refused == Counter({why: 1}) and not refused.taken, text
    many = taken(task, rows_said(*((f"what would {n} of these cost", "sale") for n in range(ROWS + 3))))
    assert len(many.taken) == ROWS and +many.refused == Counter({MANY: 3})


def test_rows_that_repeat_others_are_refused(task: Task) -> None:
    texts = (
        "The kettle that came on Friday leaks!",
        "are the chairs sold in pairs only?",
        "a wheel fell off the trolley this morning, already",
        "is there a discount for ten tables",
        "is there a discount for ten tables?",
        "what does a spare key cost, pleas",
        "what does a spare key cost, please!",
    )
    drafts = [Draft(Example(f"written:0.{n}", {"text": text}, "sale"), ()) for n, text in enumerate(texts)]
    found = repeats(drafts, task, [Example("written:9.9", {"text": "what does a spare key cost, please"}, "sale")])
    near = {f"written:0.{n}": NEAR for n in (0, 1, 4, 5, 6)}
    assert found == near | {"written:0.2": TEST}


def test_pairs_that_are_confused_are_asked_for_by_how_much(task: Task) -> None:
    rows = [Example(f"train:{n}", {"text": str(n)}, "abc"[n % 3]) for n in range(60)]
    rng = np.random.default_rng(0)
    # a and b lie on each other, c apart.
    states = rng.normal(size=(60, 6)) + np.array([[8.0 * (row.output == "c")] for row in rows])
    letters = Task.from_rows(
        [{"text": f"{row.fields['text']} {row.output}", "label": row.output} for row in rows], input="text", output="label"
    )
    found = cross_fit(states.astype(np.float32), [n % 3 for n in range(60)])
    fit = PromptFit(seed_prompt(letters), tuple(rows), np.arange(60), found)
    pairs = confused_pairs(fit, letters, {row.id for row in rows[:45]}, 3)
    assert pairs[0].labels == ("a", "b") and pairs[0].mass > 4 * pairs[1].mass
    halves = [rows[:30], rows[30:]]
    asked = plan([ConfusedPair(("a", "b"), 3.0), ConfusedPair(("a", "c"), 1.0)], halves, 8, rng)
    assert Counter(one.labels for one in asked) == Counter({("a", "b"): 6, ("a", "c"): 2})
    for one in asked:
        # All that a question shows is held out together.
        assert {int(row.id[6:]) // 30 for row in one.shown} in ({0}, {1}) and {row.output for row in one.shown} == set(
            one.labels
        )
    assert plan([ConfusedPair(("a", "b"), 3.0)], [rows[0::3], rows[1::3]], 4, rng) == []
    text = messages_for(task, asking(task))[-1]["content"]
    assert BUYS[0] in text and '"repair"' in text and HELD not in text


def test_a_row_is_judged_by_nothing_that_was_written_after_it() -> None:
    rows = [Example(f"train:{n}", {"text": str(n)}, "a") for n in range(6)]
    new = [Draft(Example(f"written:0.{n}", {"text": "x"}, "a"), (f"train:{n}", f"train:{n + 1}")) for n in (0, 2, 4)]
    splits = with_written([Split(tuple(rows[2:]), tuple(rows[:2])), Split(tuple(rows[:3]), tuple(rows[3:]))], new)
    assert [[row.id for row in split.learn if row.id.startswith("w")] for split in splits] == [
        ["written:0.2", "written:0.4"],
        ["written:0.0"],
    ]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("model=openai:m", "endpoint.base_url=http://127.0.0.1:1/v1"), "behind an endpoint"),
        (("tune.readout=words",), "tune.readout is words"),
        (("refit=true",), "refit is true"),
    ],
)
def test_runs_that_read_no_states_say_so_at_once(task: Task, more: Sequence[str], why: str) -> None:
    teacher = ("teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=wise", "teacher.write=0.5")
    config = config_from_data("rows.csv", input="text", output="label", overrides=[*teacher, *more])
    with pytest.raises(InputError, match=why):
        check_writing(config, task)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("teacher.write=0.5",), "write needs base_url"),
        (("teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=wise"), "or let it write rows with teacher.write"),
        (("teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=wise", "teacher.write=1.5"), "1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Sequence[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        config_from_data("rows.csv", input="text", output="label", overrides=settings)


def writing(*others: str) -> Reply:
    """A teacher that writes three new rows for each of two labels, and instead of each second answer says one of ``others``."""
    count = 0

    def reply(handler: Handler) -> None:
        nonlocal count
        body = handler.request_body
        text = body["messages"][-1]["content"]
        labels = body["response_format"]["json_schema"]["schema"]["properties"]["rows"]["items"]["properties"]["label"]["enum"]
        first, second = (label for label in labels if f'Rows of "{label}":' in text)
        number = count = count + 1
        rows = [
            (f"{WORDS[label][n]} {1000 * number + 37 * n} {WORDS[label][n]}", label)
            for label in (first, second)
            for n in range(3)
        ]
        said = others[number // 2 - 1] if number % 2 == 0 and number // 2 <= len(others) else rows_said(*rows)
        usage = {"prompt_tokens": 200, "completion_tokens": 100}
        message = {"message": {"role": "assistant", "content": said}}
        send(200, json.dumps({"choices": [message], "usage": usage}).encode())(handler)

    return reply


def run(bench: Bench, url: str, out: Path, *more: str, **how: Any) -> Any:
    settings = (f"teacher.base_url={url}", "teacher.model=wise", "teacher.key_env=TEACHER_KEY", "teacher.concurrency=1")
    columns = ("--input", "text", "--output", "label", "--budget", "90ktok", "--seed", "4", "--out", str(out))
    sizes = ("limit.test=24", "limit.train=60", "search.pool=4", "search.entrants=2", "search.max_cycles=1", "tune.rank=4")
    model = ("--model", str(bench.model), "tune.max_epochs=1", "engine.threads=1", "engine.dtype=float32")
    return bench.commands.run(
        *("run", str(bench.rows), *columns, *model, *sizes, *settings, "teacher.write=0.5", *more),
        environment={"TEACHER_KEY": CANARY},
        **how,
    )


def written_of(out: Path) -> Any:
    return next(event["value"] for event in journal_of(out) if event["kind"] == "written_rows")


def test_written_rows_are_learnt_from_where_they_help_and_paid_once(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    known = bench.rows.read_text().splitlines()[1].split(",")[0]
    copied = rows_said((known, "fruit"), (known, "tool"))
    wrong = rows_said(("fig 77 fig", "car"), ("hen 78 hen", "car"))
    with chat_server(writing("no rows today", '{"rows": [{"text": "fi', copied, wrong)) as server:
        killed = run(bench, server.url, out, at=("answer kept", "", 5))
        assert killed.code == -9, killed.stderr
        ended = run(bench, server.url, out)
        assert ended.code == 0, ended.stderr
        asked = Counter(json.dumps(request["body"]) for request in server.seen)
        bodies = [request["body"] for request in server.seen]
    assert max(asked.values()) == 1 and bodies[0]["temperature"] > 0
    value = written_of(out)
    assert value["most"] == 21 and 1 <= len(value["rows"]) <= 21 and value["asked"] == len(asked)
    assert value["refused"][NO_LIST] == 2 and value["tokens"] == 300 * len(asked)
    # The tiny model finds many of these alike, and some of the wrong answers may name a label that was not asked for.
    assert sum(value["refused"].values()) >= 4
    summary = summary_of(out)
    told = summary["written_rows"]
    assert told["kept"] == len(value["rows"]) and told["asked"] == value["asked"] and told["refused"] == value["refused"]
    assert told["used"] is (told["log_loss"] < told["without"])
    assert any(finding["kind"] == "written_rows" for finding in summary["data"]["findings"])
    assert "the teacher wise wrote rows:" in ended.stdout and "used: held-out log-loss" in ended.stdout
    # They are in no split, and neither dev nor test rows were shown to anybody.
    assert summary["n"]["train"] + summary["n"]["dev"] == 60 and summary["n"]["test"] == 24
    tests = {row["input"]["text"] for row in json.loads((out / "test_rows.json").read_text())["rows"]}
    devs = {row["input"]["text"] for row in json.loads((out / "dev_rows.json").read_text())["rows"]}
    questions = [body["messages"][-1]["content"] for body in bodies]
    assert not any(json.dumps(text) in question for text in tests | devs for question in questions)
    kept = [json.loads(line) for line in (out / "written_rows.jsonl").read_text().splitlines()]
    assert all(row["synthetic"] and row["id"].startswith("written:") for row in kept) and len(kept) == told["kept"]
    assert not {row["fields"]["text"] for row in kept} & (tests | devs)
    trained = [e["value"] for e in journal_of(out) if e["kind"] == "train" and e["value"]["stage"] == "final"]
    assert all(v["rows"] == 60 + told["used"] * told["kept"] for v in trained)
    card = (out / "best" / "README.md").read_text()
    assert ("synthetic rows, written by the language model wise" in card) is told["used"]
    assert not [path for path in out.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_teacher_that_fails_ends_the_writing_and_not_the_run(bench: Bench, tmp_path: Path) -> None:
    with chat_server(writing(), writing(), send(401, CANARY.encode())) as server:
        ended = run(bench, server.url, tmp_path / "run", at=("line", "plan", 1))
        assert ended.code == -9, ended.stderr
    value = written_of(tmp_path / "run")
    assert "401: [key]" in value["failed"] and value["asked"] == 2 and value["tokens"] == 600
    assert len(value["rows"]) + sum(value["refused"].values()) == 12


def test_the_bounds_of_the_teacher_are_kept(bench: Bench, tmp_path: Path) -> None:
    with chat_server(writing()) as server:
        run(bench, server.url, tmp_path / "calls", "teacher.calls=2", at=("line", "written_rows", 1))
        assert len(server.seen) == 2
        run(bench, server.url, tmp_path / "tokens", "teacher.tokens=700", at=("line", "written_rows", 1))
        assert len(server.seen) <= 4
    assert written_of(tmp_path / "calls")["stopped"] == "teacher.calls is reached"
    value = written_of(tmp_path / "tokens")
    assert "teacher.tokens" in value["stopped"] and value["tokens"] <= 700
