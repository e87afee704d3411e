"""cotune init: a task file from a table, by three questions or none."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest

from command_line import call, typed
from cotune.config import load_config
from cotune.task.columns import guess_columns
from cotune.task.reading.read import read_table

SHEET = "ticket,Customer message,queue,urgent,channel\n" + "".join(
    f"{i},my order number {i} has not come and I want to know {'why' * (i % 3)},{'abc'[i % 3]},{i % 2},mail\n"
    for i in range(30)
)


@pytest.fixture
def sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", StringIO())
    (tmp_path / "tickets.csv").write_text(SHEET)
    return Path("tickets.csv")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (SHEET, ("Customer message", "queue")),
        ("a,b\n" + "".join(f"some long text {i},{'xy'[i % 2]}\n" for i in range(9)), ("a", "b")),
        ("b,a\n" + "".join(f"{'xy'[i % 2]},some long text {i}\n" for i in range(9)), ("a", "b")),
        # Numbers that hardly recur are no labels, and neither is a column that says one thing throughout.
        ("text,price,shop\n" + "".join(f"a thing called {i},{i * 7},here\n" for i in range(30)), ("text", "price")),
        ("text\nonly this\nand that\n", (None, "text")),
        # A column that numbers the rows is neither.
        ("text,reply,Ticket ID\n" + "".join(f"a text {i},re {i}{'!' * i},{i:04}\n" for i in range(30)), ("text", "reply")),
        # A word in a header says more than few values, and so does the last place; blanks speak against a column.
        ("Message,Ticket category,Channel\n" + "".join(f"a text {i},{'abcd'[i % 4]},{'xy'[i % 2]}\n" for i in range(12)),
         ("Message", "Ticket category")),
        ("Message,Channel,Desk\n" + "".join(f"a text {i},{'xy'[i % 2]},{'abcd'[i % 4]}\n" for i in range(12)),
         ("Message", "Desk")),
        ("Channel,Desk,Message\n" + "".join(f"{'xy'[i % 2] if i % 3 else ''},{'abcd'[i % 4]},a text {i}\n" for i in range(12)),
         ("Message", "Desk")),
    ],
)  # fmt: skip
def test_columns_are_guessed(tmp_path: Path, text: str, wanted: tuple[str | None, str | None]) -> None:
    (tmp_path / "rows.csv").write_text(text)
    assert guess_columns(read_table(tmp_path / "rows.csv")) == wanted


def test_yes_takes_what_is_guessed_and_writes_a_task_that_runs_take(sheet: Path) -> None:
    code, out, err = call("init", sheet, "--yes", "--json")
    assert code == 0, err
    assert json.loads(out) == {
        "out": "task.yaml",
        "name": "tickets",
        "input": ["Customer message"],
        "output": "queue",
        "budget": "10m",
    }
    config, text = load_config(Path("task.yaml")), Path("task.yaml").read_text(encoding="utf-8")
    assert config.data.train == str(sheet.absolute()) and config.output.type == "label"
    assert "  train: tickets.csv" in text, "a path below the file's folder moves along with it"
    assert "# 3 different" not in text and "guessed: 3 different values in 30 rows" in text and "docs/configuration.md" in text


def test_guesses_are_told_and_blank_rows_are_left_out_in_numbers_that_agree(sheet: Path) -> None:
    sheet.write_text(SHEET + "30,,a,1,mail\n31,where is it,,1,mail\n")
    code, out, err = call("init", sheet, "--yes")
    assert code == 0, err
    assert "Reads 'Customer message', answers 'queue' (guessed; --input and --output name others)" in out
    assert "Not used: 'ticket', 'urgent', 'channel'." in out
    text = Path("task.yaml").read_text(encoding="utf-8")
    assert "30 labelled rows" in text and "3 different values in 30 rows" in text and "leaves out 2 further rows" in text
    assert load_config(Path("task.yaml")).data.on_blank == "skip"
    assert "guessed" not in call("init", sheet, "--yes", "--force", "--input", "channel", "--output", "queue").stdout


def test_doubts_about_the_guessed_type_are_told(sheet: Path) -> None:
    rows = "".join(f"a thing called {i},{'n/a' if i == 7 else i * 1.5}\n" for i in range(60))
    Path("prices.csv").write_text(f"text,price\n{rows}")
    code, out, err = call("init", "prices.csv", "--yes")
    assert code == 0, err
    assert "Check output.type: 59 of 60 values of the output 'price' are of type number" in out and "line 9, is 'n/a'" in out
    code, out, err = call("init", sheet, "--yes", "--force")
    assert code == 0 and "Check output.type" not in out, err


def test_broken_json_among_json_is_told_before_a_file_is_written(sheet: Path) -> None:
    rows = "".join(f'a thing {i};{{"n": {i}{"" if i == 7 else "}"}\n' for i in range(60))
    Path("things.csv").write_text(f"text;thing\n{rows}")
    code, _, err = call("init", "things.csv", "--yes", "--output", "thing")
    assert code == 2 and "things.csv, line 9, column 'thing': the output is not valid JSON" in err, err
    assert not Path("task.yaml").exists()


def test_an_interrupt_at_a_question_ends_as_elsewhere(sheet: Path) -> None:
    code, _, err = typed("init", sheet, keys=b"\x04")
    assert code == 130 and "Nothing was written" in err and not Path("task.yaml").exists()


def test_flags_answer_the_questions_and_odd_names_are_quoted(sheet: Path) -> None:
    Path("yes: no.csv").write_text(SHEET.replace("queue", "on"))
    arguments = ("--input", "Customer message", "--input", "channel", "--output", "on", "--budget", "300ktok")
    code, out, err = call("init", "yes: no.csv", *arguments, "--out", "sub/mine.yaml")
    assert code == 0 and "cotune run sub/mine.yaml" in out, err
    config = load_config(Path("sub/mine.yaml"))
    assert list(config.data.input) == ["Customer message", "channel"] and config.data.output == "on"
    assert config.data.train == str(Path("yes: no.csv").absolute()) and config.budget == "300ktok"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--yes"),
        (("--yes", "--output", "quue"), "did you mean 'queue'"),
        (("--yes", "--output", "Customer message"), "both input and answer"),
        (("--yes", "--output", "queue", "--output", "Customer message"), "'Customer message' is both input and answer"),
        (("--yes", "--output", "queue", "--output", "chanel"), "did you mean 'channel'"),
        (("--yes", "--budget", "soon"), "not a budget"),
        (("--yes", "--out", "task.json"), "task files"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(sheet: Path, arguments: tuple[str, ...], told: str) -> None:
    code, _, err = call("init", sheet, *arguments)
    assert code == 2 and told in err, err
    assert [path.name for path in Path().iterdir()] == ["tickets.csv"]


def test_a_blank_output_column_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label,more\n" + "".join(f"row {i},,{'x' * (i % 2)}\n" for i in range(40)))
    code, _, err = call("init", "rows.csv", "--yes", "--input", "text", "--output", "label")
    assert code == 2 and "no row has both an input and a value of 'label'" in err, err
    assert not Path("task.yaml").exists()


def test_a_terminal_may_name_several_columns_at_once(sheet: Path) -> None:
    code, _, err = typed("init", sheet, keys=b"Customer message, channel\nqueue\n5m\n")
    assert code == 0 and "separated by commas" in err, err
    assert list(load_config(Path("task.yaml")).data.input) == ["Customer message", "channel"]


def test_a_task_file_that_is_there_is_only_written_over_by_force(sheet: Path) -> None:
    Path("task.yaml").write_text("mine")
    code, _, err = call("init", sheet, "--yes")
    assert code == 2 and "--force" in err and Path("task.yaml").read_text() == "mine"
    assert call("init", sheet, "--yes", "--force")[0] == 0
    assert load_config(Path("task.yaml")).data.output == "queue"


def test_a_terminal_is_asked_three_questions_and_asked_again_where_no_column_fits(sheet: Path) -> None:
    code, _, err = typed("init", sheet, keys=b"\nquue\nurgent\n5m\n")
    assert code == 0, err
    assert all(question in err for question in ("Input column", "Output column", "Budget")) and "'quue'" in err
    config = load_config(Path("task.yaml"))
    assert (list(config.data.input), config.data.output, config.budget) == (["Customer message"], "urgent", "5m")


@pytest.mark.parametrize("asks", [False, True])
def test_several_output_columns_are_a_list(sheet: Path, asks: bool) -> None:
    if asks:
        code, _, err = typed("init", sheet, keys=b"\nqueue, urgent\n5m\n")
    else:
        code, _, err = call("init", sheet, "--yes", "--output", "queue", "--output", "urgent")
    assert code == 0, err
    text = Path("task.yaml").read_text()
    assert "output: [queue, urgent] " in text and "output: {type: json}" in text and "Check output.type" not in err
    assert load_config(Path("task.yaml")).data.output == "queue, urgent"


def test_a_good_task_file_is_not_replaced_by_one_that_a_run_refuses(sheet: Path) -> None:
    assert call("init", sheet, "--yes")[0] == 0
    good = Path("task.yaml").read_text()
    code, _, err = call("init", sheet, "--yes", "--input", "channel", "--input", "channel", "--force")
    assert code == 2 and "twice" in err, err
    assert Path("task.yaml").read_text() == good
