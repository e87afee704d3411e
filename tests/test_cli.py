"""The command line as users meet it: help, bad input of many kinds, answers, and what machines read."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
import pytest
import typer
from filelock import FileLock
from rich.console import Console

from command_line import typed
from cotune import __version__
from cotune.cli import app, main
from cotune.cli.evaluate import _confusion, _table
from cotune.cli.predict import _row_of
from cotune.cli.push import _ask
from cotune.cli.terminal import wrapped
from cotune.cli.try_prompt import try_typed
from cotune.cycle import compare
from cotune.cycle.compare import Tryouts
from cotune.cycle.permissions import Permissions
from cotune.cycle.runs.listing import list_runs
from cotune.errors import InputError
from cotune.evaluate.shares import PartScores, Share
from cotune.evaluate.stats.intervals import Interval
from cotune.model.hardware.doctor import Check, Diagnosis, render
from cotune.model.local import LocalModel
from cotune.report.terminal.narration import Story
from finished_runs import finished
from tiny import save_tiny

COMMANDS = [str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback]
_ESCAPE = re.compile(r"\x1b\[")


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str


Cotune = Callable[..., Ended]


@pytest.fixture
def cotune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cotune:
    """Calls the command line in this process, its output not a terminal."""

    def call(*arguments: object, stdin: str | TextIO = "") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
            raise SystemExit(0)
        printed = capsys.readouterr()
        code = end.value.code
        return Ended(code if isinstance(code, int) else int(code is not None), printed.out, printed.err)

    return call


# Help -------------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from cotune.cli import main\n"
        "for command in ([], ['run'], ['predict'], ['try']):\n"
        "    try:\n        main([*command, '--help'])\n"
        "    except SystemExit:\n        pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'peft', 'scipy', 'sklearn', 'numpy', 'pyarrow', 'datasets', 'polars'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.count("Usage:") == 4
    assert found.stdout.splitlines()[-1] == "loaded: []"


def test_a_module_is_called_by_the_name_of_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "cotune", "view", "--help"], check=True, capture_output=True, text=True)
    assert "Usage: cotune view" in found.stdout and "python" not in found.stdout


def test_a_row_of_several_fields_is_typed_field_by_field() -> None:
    assert _row_of(["a=b"], ["text"]) == {"text": "a=b"}, "a single field takes any text"
    wanted = {"premise": "1 = 1", "hypothesis": "x"}
    assert _row_of(["hypothesis=x", "premise=1 = 1"], ["premise", "hypothesis"]) == wanted
    assert _row_of(["Customer message=late", "b="], ["Customer_message", "b"]) == {"Customer_message": "late", "b": ""}
    for texts, told in (
        (["a text"], "premise, hypothesis), and 'a text' names none"),
        (["premise=x"], "'hypothesis' is missing"),
        (["premise=x", "premise=y", "hypothesis=z"], "'premise' is given twice"),
    ):
        with pytest.raises(InputError, match=re.escape(told)) as error:
            _row_of(texts, ["premise", "hypothesis"])
        assert '--input premise="..." --input hypothesis="..."' in str(error.value)
    with pytest.raises(InputError, match="one input field, but 2 texts"):
        _row_of(["a", "b"], ["text"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(cotune: Cotune, command: str) -> None:
    shown = cotune(command, "--help")
    assert shown.code == 0
    assert re.search(rf"Examples?:\s.*cotune {command}\b", shown.stdout, re.DOTALL)
    assert not _ESCAPE.search(shown.stdout)
    assert "--json" in shown.stdout


def test_the_version_is_told(cotune: Cotune) -> None:
    shown = cotune("--version")
    assert shown.code == 0 and shown.stdout == f"cotune {__version__}\n"


@pytest.mark.parametrize(
    ("redirected", "code", "told"), [(">/dev/full", 1, "cannot be written"), (">&-", 0, ""), ("<&- 2>&-", 0, "")]
)
def test_streams_that_are_full_or_closed_are_no_traceback(redirected: str, code: int, told: str) -> None:
    line = f'"{sys.executable}" -m cotune.cli --version {redirected}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") == (code != 0), done.stderr


def test_a_limit_on_the_size_of_files_is_no_traceback(tmp_path: Path) -> None:
    line = f'ulimit -f 0; "{sys.executable}" -m cotune.cli --version >version.txt'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_help_names_every_command(cotune: Cotune) -> None:
    shown = cotune("--help")
    assert {"run", "predict", "try", "doctor"} <= set(COMMANDS)
    assert all(command in shown.stdout for command in COMMANDS)


def test_the_list_of_commands_has_one_line_for_each(cotune: Cotune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cotune("--help").stdout.splitlines()
    for command in COMMANDS:
        (line,) = (number for number, text in enumerate(lines) if text.startswith(f"│ {command} "))
        assert not lines[line + 1].startswith("│   "), f"{command}: the text is longer than a line"


def test_options_name_what_they_take() -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    plain = [f"{name} {one.name}" for name, command in commands.items() for one in command.params if one.metavar is None]
    flags = {
        f"{name} {one.name}" for name, command in commands.items() for one in command.params if getattr(one, "is_flag", False)
    }
    assert plain and set(plain) <= flags


def test_options_are_described_for_their_own_command(cotune: Cotune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")

    def help_of(command: str, option: str) -> str:
        return next(line for line in cotune(command, "--help").stdout.splitlines() if f"--{option} " in line)

    assert "Also check these workers" in help_of("doctor", "executor") and "chunks" not in help_of("doctor", "executor")
    assert "right answers" in help_of("run", "output") and "abel column" not in help_of("run", "output")
    assert "2usd" in help_of("init", "budget") and "2usd" in help_of("run", "budget")


# Bad input --------------------------------------------------------------------------------------------------------

_WORDS = {"fruit": "apple", "animal": "horse", "tool": "hammer"}
GOOD = "text,label\n" + "".join(f"{list(_WORDS.values())[i % 3]} number {i},{list(_WORDS)[i % 3]}\n" for i in range(60))
YAML = "name: mine\ndata: {train: rows.csv, input: text, output: label}\nmodel: MODEL\nbudget: 20ktok\n"


@dataclass(frozen=True)
class Bad:
    """A command that must be refused.

    Attributes:
        told: what the message must hold.
        files: name to content of files in the working folder, beside a good ``rows.csv`` and ``model``.
        task: the file to run.
        columns: the columns' options.
        more: further arguments.
        model: the model's folder.
    """

    told: tuple[str, ...]
    files: dict[str, str | bytes] | None = None
    task: str = "rows.csv"
    columns: tuple[str, ...] = ("--input", "text", "--output", "label")
    more: tuple[str, ...] = ()
    model: str | None = "model"


def csv(content: str | bytes, *told: str, **more: Any) -> Bad:
    return Bad(told, {"bad.csv": content}, "bad.csv", **more)


def yaml(content: str, *told: str, more: tuple[str, ...] = ()) -> Bad:
    return Bad(told, {"task.yaml": content}, "task.yaml", (), more, None)


BAD = {
    "missing file": Bad(("rosw.csv", "no such file", "'rows.csv'"), task="rosw.csv"),
    "folder as file": Bad(("data.csv", "folder"), {"data.csv/inner.txt": ""}, "data.csv"),
    "unknown suffix": Bad(("rows.xlsx", "'.xlsx'", ".csv"), {"rows.xlsx": "x"}, "rows.xlsx"),
    "no suffix": Bad(("rows", "no ending"), {"rows": "x"}, "rows"),
    "empty file": csv("", "bad.csv", "empty"),
    "header only": csv("text,label\n", "bad.csv", "no rows"),
    "missing column": Bad(("rows.csv", "'txt'", "did you mean 'text'"), columns=("--input", "txt", "--output", "label")),
    "missing label column": Bad(("rows.csv", "'lable'", "'label'"), columns=("--input", "text", "--output", "lable")),
    "no input named": Bad(("--input",), columns=("--output", "label")),
    "no output named": Bad(("--output",), columns=("--input", "text")),
    "a column named twice": Bad(
        ("'text'", "--input and --output name the same column"), columns=("--input", "text", "--output", "text")
    ),
    "duplicate header": csv("text,text,label\na,b,c\n", "bad.csv", "line 1", "'text' twice"),
    "one class only": csv("text,label\n" + "".join(f"row {i},same\n" for i in range(40)), "bad.csv", "'label'", "same"),
    "too few rows": csv("text,label\na,x\nb,y\n", "bad.csv", "rows"),
    "an empty label": csv(GOOD + "word,\n", "bad.csv", "line 62", "'label'"),
    "an empty input": csv(GOOD + ",fruit\n", "bad.csv", "line 62", "'text'"),
    "a ragged row": csv(GOOD + "one,two,three\n", "bad.csv", "line 62", "3 cells"),
    "an open quote": csv(GOOD + '"never closed,fruit\n', "bad.csv", "line 62", "quote"),
    "a NUL byte": csv(GOOD.encode() + b"a\0b,fruit\n", "bad.csv", "line 62", "NUL"),
    "Windows-1252": csv(GOOD.encode() + "café,fruit\n".encode("cp1252"), "bad.csv", "line 62", "UTF-8"),
    "UTF-16": csv(GOOD.encode("utf-16"), "bad.csv", "UTF-16"),
    "a broken JSON line": Bad(
        ("bad.jsonl", "line 2", "JSON"), {"bad.jsonl": '{"text": "a", "label": "x"}\n{"text": \n'}, "bad.jsonl"
    ),
    "a JSON line that is no object": Bad(("bad.jsonl", "line 1", "list"), {"bad.jsonl": "[1, 2]\n"}, "bad.jsonl"),
    "a cell that is no text": Bad(
        ("bad.jsonl", "line 1", "'text'"), {"bad.jsonl": '{"text": {"a": NaN}, "label": "x"}\n' * 30}, "bad.jsonl"
    ),
    "a Parquet file that is none": Bad(("bad.parquet",), {"bad.parquet": "nothing of the kind"}, "bad.parquet"),
    "label not among labels": yaml(YAML + "output: {type: label, labels: [fruit, animal]}\n", "rows.csv", "'tool'", "line"),
    "unknown key": yaml(YAML + "tune: {rnak: 8}\n", "task.yaml", "line 5", "rnak", "tune.rank"),
    "unknown top key": yaml(YAML + "bugdet: 5m\n", "task.yaml", "line 5", "bugdet", "budget"),
    "wrong type": yaml(YAML + "tune: {rank: many}\n", "task.yaml", "tune.rank", "whole number", "'many'"),
    "broken YAML": yaml("name: [mine\ndata:\n", "task.yaml", "line", "YAML"),
    "empty YAML": yaml("", "task.yaml", "empty"),
    "a key twice in YAML": yaml(YAML + "name: other\n", "task.yaml", "line 5", "'name'", "twice"),
    "no data in YAML": yaml("name: mine\n", "task.yaml", "data"),
    "missing task file": Bad(("none.yaml", "does not exist"), task="none.yaml", columns=()),
    "columns beside YAML": Bad(("task.yaml", "--input"), {"task.yaml": YAML}, "task.yaml"),
    "unknown metric": Bad(("metric", "acuracy", "accuracy"), more=("metric=acuracy",)),
    "unknown override": Bad(("tune.rnk", "tune.rank"), more=("tune.rnk=8",)),
    "an override without a value": Bad(("'tune.rank'", "key=value"), more=("tune.rank",)),
    "a column without its quotes": Bad(
        ('--input "Customer message" --output "Assigned team"', "needs quotes"),
        {"rows.csv": GOOD.replace("text,label", "Customer message,Assigned team")},
        columns=("--input", "Customer", "message", "--output", "Assigned", "team"),
    ),
    "a metric of another type": Bad(
        ("metric", "'f1'", "did you mean 'macro_f1'", "accuracy, macro_f1, weighted_f1;"), more=("metric=f1",)
    ),
    "an endpoint's model without its address": Bad(
        ("openai:small", "endpoint.base_url=", "endpoint.key_env="), model="openai:small"
    ),
    "a rank of zero": Bad(("tune.rank", "at least 1"), more=("tune.rank=0",)),
    "a negative learning rate": Bad(("tune.learning_rate", "more than 0"), more=("tune.learning_rate=-1",)),
    "a number type that cannot be tuned in": Bad(
        ("engine.dtype: float16 is too narrow for tuning", "Use bfloat16, float32 or auto"), more=("engine.dtype=float16",)
    ),
    "a LoRA target that is not there": Bad(("tune.target", "'nowhere'", "q_proj"), more=("tune.target=q_proj,nowhere",)),
    "budget nonsense": Bad(("budget", "'soon'", "10m"), more=("--budget", "soon")),
    "budget nothing": Bad(("budget", "'0m'"), more=("--budget", "0m")),
    "budget too small": Bad(("budget", "too small", "Give --budget"), more=("--budget", "3ktok")),
    "a budget that is over before it starts": Bad(("too small", "it is 1 s", "--budget 60s"), more=("--budget", "1s")),
    "an object as rows": Bad(("bad.json", "single object"), {"bad.json": '{"text": "a", "label": "x"}'}, "bad.json"),
    "unknown device": Bad(("warp",), more=("engine.device=warp",)),
    "a seed below zero": Bad(("seed", "at least 0"), more=("--seed", "-1")),
    "a limit that leaves nothing": Bad(("limit.test",), more=("limit.test=59",)),
    "prompt file missing": Bad(("mine.txt", "does not exist"), more=("--prompt", "mine.txt")),
    "prompt file not UTF-8": Bad(("mine.txt", "UTF-8"), {"mine.txt": b"caf\xe9 {text}"}, more=("--prompt", "mine.txt")),
    "prompt without input field": Bad(("prompt 1", "{text}"), {"mine.txt": "Which?"}, more=("--prompt", "mine.txt")),
    "empty prompt": Bad(("empty", "{text}"), {"mine.txt": " \n"}, more=("--prompt", "mine.txt")),
    "prompt setting without input field": Bad(("prompt", "{text}"), more=("prompt=Which label?",)),
    "a prompt longer than the model takes": Bad(
        ("tokens", "limit"), {"mine.txt": "word " * 900 + "{text}"}, more=("prompt=mine.txt",)
    ),
    "unknown model": Bad(("model", "'nothing'", "smollm2-135m"), model="nothing"),
    "model folder without config": Bad(("hollow", "config.json"), {"hollow/readme.txt": ""}, model="hollow"),
    "model folder with a broken config": Bad(("config.json",), {"hollow/config.json": "{"}, model="hollow"),
    "model folder with pickle only": Bad(("safetensors",), {"pickled/pytorch_model.bin": b"\x80\x04."}, model="pickled"),
    "model weights cut short": Bad(("safetensors",), {"pickled/model.safetensors": b"\x08"}, model="pickled"),
    "out is a file": Bad(("taken",), {"taken": ""}, more=("--out", "taken")),
    "out lies below a file": Bad(("taken",), {"taken": ""}, more=("--out", "taken/run")),
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("cli") / "model")


def lying_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        str(path.relative_to(folder)): b"folder" for path in folder.rglob("*") if path.is_dir()
    }


def is_one_message(ended: Ended) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.stderr + ended.stdout
    assert ended.stderr.startswith("cotune: ")
    assert ended.stderr.count("\n") == 1, "one line"
    assert len(ended.stderr) < 600
    # A command is there to be copied.
    assert ended.stderr.rstrip().endswith((".", "}")) or ": cotune run " in ended.stderr, "it ends with how to fix it"


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_gets_one_message_and_leaves_nothing(
    cotune: Cotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, bad: Bad
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(GOOD)
    (tmp_path / "model").symlink_to(tiny_folder)
    if bad.model == "pickled":
        shutil.copytree(tiny_folder, tmp_path / "pickled")
        (tmp_path / "pickled" / "model.safetensors").unlink()
    for name, content in (bad.files or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.replace("MODEL", str(tiny_folder)).encode()
        (tmp_path / name).write_bytes(data)
    before = lying_in(tmp_path)
    given = ["run", bad.task, *bad.columns]
    given += ["--model", bad.model] if bad.model else []
    given += ["--budget", "20ktok"] if "--budget" not in bad.more else []
    ended = cotune(*given, "engine.threads=1", "engine.dtype=float32", *bad.more)
    is_one_message(ended)
    for fragment in bad.told:
        assert fragment in ended.stderr
    assert lying_in(tmp_path) == before


def test_there_are_many_kinds_of_bad_input() -> None:
    assert len(BAD) >= 25


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run",), "Missing argument"),
        (("run", "--example", "spam", "rows.csv"), "two tasks"),
        (("run", "rows.csv", "--bugdet", "5m"), "--budget"),
        (("run", "rows.csv", "--seed", "one"), "--seed"),
        (("rnu", "rows.csv"), "run"),
        (("predict",), "Missing argument"),
        (("predict", "best", "--batch", "0"), "--batch"),
        (("try", "run", "--rows", "-1"), "--rows"),
        (("run", "rows.csv", "--limit.test", "20"), "limit.test=20"),
        (("run", "rows.csv", "--limit.test=20"), "limit.test=20"),
        (("run", "rows.csv", "--group", "thread"), "write it as data.group=thread."),
        (("run", "rows.csv", "--dev=dev.csv"), "write it as data.dev=dev.csv"),
        (("run", "rows.csv", "--limit", "20"), "write it as limit.train=20 or"),
        (("run", "rows.csv", "--group", "--out", "x"), "write it as data.group=VALUE."),
        (("run", "rows.csv", "--schema", "s.json"), "write it as output.schema=s.json."),
        (("run", "rows.csv", "--endpoint", "http://x"), "Write it as endpoint.base_url=http://x, for example."),
        (("run", "rows.csv", "--key-env", "A"), "It may be one of several"),
        (("try", "run", "--text", "{text}", "--prompt", "mine.txt"), "a text and a file are two prompts"),
        (("run", "rows.csv", "--nearest-demonstrations=true"), "search.nearest_demonstrations=true"),
        (("evaluate", "run", "rows.csv", "--output", "Assigned", "team"), "needs quotes"),
    ],
)
def test_a_command_that_is_written_wrongly_is_told(cotune: Cotune, arguments: tuple[str, ...], told: str) -> None:
    ended = cotune(*arguments)
    assert ended.code == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_runs_says_how_one_is_made(cotune: Cotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ended = cotune("list")
        assert ended.code == 0 and "No runs in runs" in ended.stdout and "cotune run FILE --input COLUMN" in ended.stdout
        (tmp_path / "runs").mkdir(exist_ok=True)
    assert json.loads(cotune("list", "--json").stdout) == []
    missing = cotune("list", "elsewhere")
    assert missing.code == 2 and "elsewhere: there is no such folder" in missing.stderr
    assert "runs/x: there is no such folder." in cotune("report", "runs/x").stderr


def test_a_table_of_confusions_loses_no_label() -> None:
    names = ["account_access", "billing_problem", "cancellation_request", "delivery_status", "refund_request"]
    counts = np.arange(25).reshape(5, 5)
    scored: Any = SimpleNamespace(labels=[SimpleNamespace(name=name) for name in names], confusion=counts)
    shown = Console(file=io.StringIO(), width=80, record=True, _environ={})
    for part in _confusion(scored, 80):
        shown.print(part)
    text = shown.export_text()
    assert all(f"{place} {name}" in text for place, name in enumerate(names, 1)), "rows say what the columns' numbers are"
    assert re.search(r"^ +1 +2 +3 +4 +5 *$", text, re.MULTILINE) and "…" not in text
    assert "24" in text and max(map(len, text.splitlines())) <= 80


def test_a_table_of_labels_breaks_no_name() -> None:
    share = Share(0.5, Interval(0.25, 0.75))
    short, long = ([PartScores(name, 4, 5, share, share, share)] for name in ("refund", "cancel_subscription"))
    for parts, width, shown in ((short, 80, 3), (long, 80, 2), (short, 40, 0), (long, 56, 0)):
        console = Console(file=io.StringIO(), width=width, record=True, _environ={})
        console.print(_table("label", parts, width))
        lines = console.export_text().splitlines()
        row = lines[-1]
        assert len(lines) == 1 + len(parts) and parts[-1].name in row
        assert row.count("0.25-0.75") == shown and row.count("0.50") == 3


def test_a_diagnosis_without_a_fault_has_no_column_for_what_to_do() -> None:
    fine, odd = Check("transformers", "ok", "5.24.0"), Check("disk", "warn", "full", "Free some.")
    for checks, told in (((fine,), False), ((fine, odd), True)):
        console = Console(file=io.StringIO(), width=40, record=True, _environ={})
        console.print(render(Diagnosis(checks, None)))
        text = console.export_text()
        assert "transformers" in text and ("how to fix" in " ".join(text.split())) is told


# A whole run ------------------------------------------------------------------------------------------------------

BRIEF = (
    "search.pool=4",
    "engine.threads=1",
    "engine.dtype=float32",
    "tune.rank=2",
    "tune.max_epochs=2",
)


@dataclass(frozen=True)
class Done:
    """A finished run: its folder, and what the command printed in ``--json``."""

    out: Path
    rows: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Done:
    folder = tmp_path_factory.mktemp("run")
    rows = folder / "rows.csv"
    rows.write_text(GOOD)
    arguments = [str(rows), "--input", "text", "--output", "label", "--model", str(tiny_folder), "--budget", "25ktok"]
    arguments += ["--out", str(folder / "out"), *BRIEF]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        main(["run", *arguments, "--json"])
    assert (folder / "out" / "summary.json").is_file(), err.getvalue()
    return Done(folder / "out", rows, out.getvalue(), err.getvalue())


def test_run_json_is_lines_of_json(done: Done) -> None:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [line.get("kind") for line in lines[:-1]]
    assert {"engine", "start", "plan", "race", "tuned", "arm", "done"} <= set(kinds)
    events = [line for line in lines[:-1] if line["kind"] not in ("progress", "note")]
    assert events == [json.loads(line) for line in (done.out / "journal.jsonl").read_text().splitlines()]
    summary = json.loads((done.out / "summary.json").read_text())
    assert lines[-1] == {"out": str(done.out), **summary}
    assert done.stderr == ""


def test_no_step_of_a_run_is_told_as_raw_keys(done: Done) -> None:
    story, events = Story(), [json.loads(line) for line in (done.out / "journal.jsonl").read_text().splitlines()]
    lines = [told.text for event in events for told in story.tell(event)]
    assert len(lines) > 15
    for line in lines:
        assert not re.search(r"[a-z]_[a-z]|\w \(\d+\)|: $", line), line


def again(cotune: Cotune, done: Done, tiny_folder: Path, *more: str) -> Ended:
    arguments = ["--input", "text", "--output", "label", "--model", tiny_folder, "--budget", "25ktok", "--out", done.out]
    return cotune("run", done.rows, *arguments, *BRIEF, *more)


def test_a_verdict_is_told_without_escape_codes_when_piped(cotune: Cotune, done: Done, tiny_folder: Path) -> None:
    ended = again(cotune, done, tiny_folder)
    assert ended.code == 0
    assert not _ESCAPE.search(ended.stdout)
    assert ended.stderr == ""
    for word in ("seed tuned", "best tuned", "The winning prompt", "The bundle"):
        assert word in ended.stdout
    first, second, *_ = ended.stdout.splitlines()
    assert f"{done.out} holds a finished run" in first and "showing its result" in second
    assert max(map(len, ended.stdout.splitlines())) > 120, "what is piped is not wrapped"


def test_rows_of_a_data_set_can_be_named_on_the_command_line(
    cotune: Cotune, done: Done, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text(GOOD.replace("number", split))
    asked = ["--model", tiny_folder, "--budget", "3ktok", "--out", tmp_path / "out", "engine.threads=1"]
    columns = ["--input", "text", "--output", "label"]
    for more in (columns, ["--from", done.out / "best", "--replay", f"hf://{folder}:validation"]):
        ended = cotune("run", f"hf://{folder}", *more, *asked)
        assert ended.code == 2
        assert "too small" in ended.stderr, "the rows were read, and the budget was looked at"
    nowhere = cotune("run", f"hf://{folder}", "--from", done.out / "best", "--replay", f"hf://{folder}:none", *asked)
    assert f"hf://{folder}:none" in nowhere.stderr


def test_a_file_of_test_rows_can_be_named(cotune: Cotune, tiny_folder: Path, tmp_path: Path) -> None:
    header, *lines = GOOD.splitlines(keepends=True)
    (tmp_path / "train.csv").write_text(header + "".join(lines[:40]))
    (tmp_path / "test.csv").write_text(header + "".join(lines[40:]))
    out, columns = tmp_path / "out", ["--input", "text", "--output", "label"]
    asked = [*columns, "--model", tiny_folder, "--budget", "25ktok", "--out", out, "--quiet", *BRIEF]
    assert cotune("run", tmp_path / "train.csv", "--test", tmp_path / "test.csv", *asked).code == 0
    assert len(json.loads((out / "test_rows.json").read_text())["rows"]) == 20
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["given"]["labelled"], summary["given"]["test"]) == (40, 20)
    missing = cotune("run", tmp_path / "train.csv", "--test", tmp_path / "none.csv", *asked)
    assert missing.code == 2 and "none.csv" in missing.stderr


def test_a_run_that_is_stopped_at_once_gives_the_terminal_back(done: Done, tiny_folder: Path, tmp_path: Path) -> None:
    terminal, other = os.openpty()
    arguments = [str(done.rows), "--input", "text", "--output", "label", "--model", str(tiny_folder), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "cotune.cli", "run", *arguments, "engine.threads=1"]
    shown = b""
    with subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as child:
        os.close(other)
        while b"\x1b[?25l" not in shown or "╭".encode() not in shown:
            shown += os.read(terminal, 4096)
        # Typed, as a user does: a terminal that showed it would tear the drawing.
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # Linux says so once nobody holds the other end
            while more := os.read(terminal, 4096):
                shown += more
        assert child.wait(200) == 130
        assert child.stderr is not None
        said = child.stderr.read().decode()
    os.close(terminal)
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"Starting" in shown.split(b"\x1b[?25l")[0]
    assert b"^C" not in shown
    assert "Stopped" in said and "Traceback" not in said


def test_an_interrupt_while_a_string_is_executed_ends_with_the_usual_code(done: Done, tmp_path: Path) -> None:
    """Importing dataclasses executes strings, so that an interrupt in the first seconds often comes there."""
    (tmp_path / "own.py").write_text("exec('raise KeyboardInterrupt')\n")
    command = [sys.executable, "-m", "cotune.cli", "run", str(done.rows), "--input", "text", "--output", "label"]
    ended = subprocess.run([*command, f"metric={tmp_path / 'own.py'}:score"], capture_output=True, text=True)
    assert (ended.returncode, "Traceback" in ended.stderr) == (130, False), ended.stderr


def test_predict_answers_one_text(cotune: Cotune, done: Done) -> None:
    ended = cotune("predict", done.out / "best", "--input", "apple number 3")
    assert ended.code == 0
    assert ended.stdout.strip() in _WORDS
    assert ended.stdout.count("\n") == 1
    told = json.loads(cotune("predict", done.out / "best", "--input", "apple number 3", "--json").stdout)
    assert told["answer"] == ended.stdout.strip()
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert told["probabilities"].keys() == set(_WORDS)


def test_predict_answers_lines_from_standard_input(cotune: Cotune, done: Done) -> None:
    rows = [{"id": 7, "text": "apple number 3"}, {"id": 8, "text": "hammer number 5", "answer": "old"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + '\n"horse number 4"\n'
    ended = cotune("predict", done.out / "best", "--batch", "2", stdin=lines)
    assert ended.code == 0
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row.get("id") for row in found] == [7, 8, None]
    assert found[1]["answer"] == "old", "keys of the row's own stay"
    assert all(row["answer"] in _WORDS for row in (found[0], found[2]))
    single = cotune("predict", done.out / "best", "--input", "hammer number 5").stdout.strip()
    assert found[1]["answer_2"] == single
    weighed = cotune("predict", done.out / "best", "--probabilities", stdin=lines)
    assert all(max(row["probabilities"], key=row["probabilities"].get) for row in map(json.loads, weighed.stdout.splitlines()))


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        ("", ("standard input", "no rows")),
        ('{"txt": "a"}\n', ("standard input, line 1", "'text'")),
        ('{"text": "a"}\n{"text": \n', ("standard input, line 2", "JSON")),
        ('{"text": {"a": NaN}}\n', ("line 1", "NaN")),
        ('{"text": ""}\n', ("line 1", "empty")),
        ("[1]\n", ("line 1",)),
    ],
)
def test_rows_that_cannot_be_answered_are_told(cotune: Cotune, done: Done, stdin: str, told: tuple[str, ...]) -> None:
    ended = cotune("predict", done.out / "best", stdin=stdin)
    is_one_message(ended)
    assert all(fragment in ended.stderr for fragment in told)


def test_standard_input_that_is_no_utf_8_is_told(cotune: Cotune, done: Done) -> None:
    content = '{"text": "horse"}\n{"text": "Müller"}\n'.encode("latin-1")
    ended = cotune("predict", done.out / "best", stdin=io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert ended.code == 2 and "standard input, line 2" in ended.stderr and "UTF-8" in ended.stderr
    assert [json.loads(line)["text"] for line in ended.stdout.splitlines()] == ["horse"]


@pytest.mark.parametrize("place", ["nothing", "empty", "file", "changed"])
def test_what_is_no_bundle_is_told(cotune: Cotune, done: Done, tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    shutil.copytree(done.out / "best", tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("other")
    ended = cotune("predict", tmp_path / place, "--input", "apple")
    is_one_message(ended)
    assert place in ended.stderr


def test_try_sets_a_prompt_against_the_winner(cotune: Cotune, done: Done, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("What is this?\n{text}\nAnswer:")
    ended = cotune("try", done.out, "--prompt", tmp_path / "mine.txt")
    assert ended.code == 0, ended.stderr
    assert not _ESCAPE.search(ended.stdout)
    assert ended.stderr == ""
    found = json.loads(cotune("try", done.out, "--prompt", tmp_path / "mine.txt", "--json").stdout)
    journal = [json.loads(line) for line in (done.out / "journal.jsonl").read_text().splitlines()]
    assert found["split"] == "dev"
    assert found["n"] == next(event["value"]["n"]["dev"] for event in journal if event["kind"] == "start")
    for comparison in found["comparisons"]:
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
        assert comparison["difference"] == pytest.approx(comparison["mine"] - comparison["winner"])
        assert all(row["right"] == (row["mine"] == row["gold"]) for row in comparison["flipped"]), "of labels"
        right = sum(row["mine"] == row["gold"] for row in comparison["flipped"])
        wrong = sum(row["winner"] == row["gold"] for row in comparison["flipped"])
        assert (right - wrong) / found["n"] == pytest.approx(comparison["difference"])
    typed = cotune("try", done.out, "--json", stdin="What is this?\n{text}\nAnswer:")
    assert json.loads(typed.stdout) == found
    dashed = cotune("try", done.out, "--prompt", "-", "--json", stdin="What is this?\n{text}\nAnswer:")
    assert json.loads(dashed.stdout) == found


def test_each_comparison_is_heard_as_soon_as_it_is_known(done: Done) -> None:
    heard: list[list[str]] = []
    found = Tryouts(done.out).compare(
        "What is this?\n{text}\nAnswer:", heard=lambda known: heard.append([one.weights for one in known.comparisons])
    )
    weights = [one.weights for one in found.comparisons]
    assert heard == [weights[: n + 1] for n in range(len(weights))]
    assert "winner" in str(found) and f"{weights[-1]} weights" in str(found)


def test_a_prompt_is_compared_on_a_bounded_number_of_rows(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MOST_COMPARED", 6)
    with contextlib.closing(Tryouts(done.out)) as tryouts:
        assert tryouts.compare("First: {text}").n == 6


def test_states_of_a_comparison_are_kept_for_the_next(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(done.out, tmp_path / "run", ignore=shutil.ignore_patterns("states"))
    passes, real = [], LocalModel.layer_states

    def counted(*arguments: Any, **named: Any) -> Any:
        passes.append(1)
        return real(*arguments, **named)

    monkeypatch.setattr(LocalModel, "layer_states", counted)
    counts, found = [], []
    for text in ("First: {text}", "Second: {text}", "Second: {text}"):
        with contextlib.closing(Tryouts(tmp_path / "run")) as tryouts:
            found.append(tryouts.compare(text).to_json())
        counts.append(len(passes))
        passes.clear()
    weights = len(found[0]["comparisons"])
    assert counts == [2 * weights, weights, 0], "the winner is not read again, and neither is the same prompt"
    assert found[1] == found[2] and (tmp_path / "run" / "states").is_dir()


def test_a_comparison_needs_no_place_for_states(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done.out, tmp_path / "run", ignore=shutil.ignore_patterns("states"))
    (tmp_path / "run" / "states").write_text("not a folder")
    found = []
    for out in (tmp_path / "run", done.out):
        with contextlib.closing(Tryouts(out)) as tryouts:
            found.append(tryouts.compare("First: {text}").to_json())
    assert found[0] == found[1]


def test_trying_and_answering_import_neither_transformers_nor_peft(cotune: Cotune, done: Done) -> None:
    # The first load in a dtype compares the minimal model with that of transformers. The run has loaded float32; a bundle is
    # loaded in the machine's fastest dtype.
    assert cotune("predict", done.out / "best", "--input", "apple number 3").code == 0
    script = (
        "import json, sys\n"
        "from cotune.cli import main\n"
        "heavy = {'transformers', 'peft', 'torch._dynamo', 'pandas', 'sklearn', 'pyarrow', 'datasets', 'cotune.cycle.run'}\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n        main(command)\n"
        "    except SystemExit:\n        pass\n"
        "    print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    commands = (
        ["predict", str(done.out / "best"), "--input", "apple number 3", "--json"],
        ["try", str(done.out), "--text", "What is this?\n{text}\nAnswer:", "--json"],
    )
    found = subprocess.run([sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, check=True)
    told = found.stdout.splitlines()
    assert len(told) == 4 and all(map(json.loads, told[::2]))
    assert told[1::2] == ["loaded: []"] * 2


def test_a_terminal_takes_one_prompt_after_another(done: Done) -> None:
    terminal, other = os.openpty()
    arguments = [sys.executable, "-m", "cotune.cli", "try", str(done.out), "--json"]
    with subprocess.Popen(arguments, stdin=other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        os.close(other)
        assert child.stdout is not None and child.stderr is not None
        asked = child.stderr.readline()
        assert "Ctrl-D" in asked and "{text}" in asked
        answers = []
        for text in ("Which? {text}", "No field.", "Name it: {text}"):
            os.write(terminal, f"{text}\n".encode() + b"\x04")
            if "{text}" in text:
                answers.append(json.loads(child.stdout.readline()))
        os.write(terminal, b"\x04")
        assert child.wait(200) == 0
        said = child.stderr.read()
    os.close(terminal)
    assert [answer["prompt_text"] for answer in answers] == ["Which? {text}", "Name it: {text}"]
    assert "{text}" in said and "Traceback" not in said


def test_a_prompt_that_is_piped_is_not_taken_for_an_option(cotune: Cotune, done: Done) -> None:
    assert "standard input: the prompt is empty" in cotune("try", done.out, stdin=" ").stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_breaks_between_words_on_a_terminal_and_its_command_stays_whole(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    text = f"cotune: {'word ' * 12}names suggest: cotune run pool.csv --input 'Customer message' --output 'Ticket category'"
    lines = wrapped(text, stream).split("\n")
    assert lines == [text] if not terminal else max(map(len, lines[:-1])) <= 40 and len(lines) == 4
    assert lines[-1].endswith("cotune run pool.csv --input 'Customer message' --output 'Ticket category'")


def test_a_run_that_cannot_be_opened_is_an_error_also_where_nothing_was_typed(done: Done, tmp_path: Path) -> None:
    shutil.copy(done.out / "config.json", tmp_path)
    (tmp_path / "journal.jsonl").write_text("")
    code, _, said = typed("try", tmp_path, keys=b"\x04")
    assert code == 2 and "no winner yet" in said and "Traceback" not in said


def test_typed_bytes_that_are_not_utf8_are_an_error_with_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cotune.cli.try_prompt.open_run", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Größe: {text}".encode("latin-1")), "utf-8"))
    with pytest.raises(InputError, match="not UTF-8"):
        try_typed(tmp_path, Permissions(), rows=8, as_json=False)


def test_a_watched_file_is_tried_whenever_it_is_saved(done: Done, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Which? {text}")
    arguments = [sys.executable, "-m", "cotune.cli", "try", str(done.out), "--prompt", str(file), "--watch", "--json"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        first = json.loads(child.stdout.readline())
        file.write_text("No field.")
        said = ""
        while "{text}" not in said:
            said += child.stderr.readline()
        file.unlink()
        (tmp_path / "new.txt").write_text("Name it: {text}")
        (tmp_path / "new.txt").rename(file)
        second = json.loads(child.stdout.readline())
        # An editor that marks files as UTF-8.
        file.write_text("\ufeffName it: {text}")
        time.sleep(1)
        file.write_text("\ufeffSay it: {text}")
        third = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        assert child.wait(200) == 130
        assert "Traceback" not in child.stderr.read()
    tried = [one["prompt_text"] for one in (first, second, third)]
    assert tried == ["Which? {text}", "Name it: {text}", "Say it: {text}"]


@pytest.mark.parametrize("command", ["report", "list", "predict", "view", "try"])
@pytest.mark.parametrize("kind", ["long", "loop", "below a file"])
def test_a_path_that_cannot_be_reached_is_one_message(
    cotune: Cotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    path = {"long": "x" * 300, "loop": "loop/run", "below a file": "file/run"}[kind]
    ended = cotune(command, path)
    is_one_message(ended)
    assert ended.code == 2 and path[:100] in ended.stderr


def test_a_folder_that_may_not_be_entered_holds_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "mine", [True, False])
    (tmp_path / "lost+found").mkdir()
    is_file = Path.is_file

    def refusing(path: Path) -> bool:
        # As for anyone but root.
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refusing)
    assert [Path(run.folder).name for run in list_runs(tmp_path)] == ["mine"]


def test_names_that_are_not_utf_8_are_told_as_json_and_in_words(tmp_path: Path) -> None:
    folder = finished(tmp_path / "\udcff", [True, False])
    told = [
        subprocess.run([sys.executable, "-m", "cotune.cli", *words], capture_output=True, text=True)
        for words in (("list", str(tmp_path), "--json"), ("report", str(folder)))
    ]
    assert [one.returncode for one in told] == [0, 0], told
    assert json.loads(told[0].stdout)[0]["folder"] == str(folder)
    assert "Report: " in told[1].stdout


def test_a_run_that_is_asked_to_finish_is_told_as_json(cotune: Cotune, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    (tmp_path / "journal.jsonl").write_text("")
    with FileLock(tmp_path / ".lock"):
        columns = ("--input", "text", "--output", "label")
        ended = cotune("run", tmp_path / "rows.csv", *columns, "--out", tmp_path, "--finish", "--json")
    assert ended.code == 0 and json.loads(ended.stdout) == {"out": str(tmp_path), "finishing": True}, ended.stderr
    assert (tmp_path / "finish").is_file()


def test_the_run_with_a_larger_budget_is_asked_to_finish_and_not_the_one_before(
    cotune: Cotune, done: Done, tiny_folder: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "out", tmp_path / "out-2"
    for folder, budget in ((first, "25ktok"), (second, "50ktok")):
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes((done.out / "journal.jsonl").read_bytes())
        (folder / "config.json").write_text((done.out / "config.json").read_text().replace('"25ktok"', f'"{budget}"'))
    asked = [done.rows, "--input", "text", "--output", "label", "--model", tiny_folder, "--out", first, *BRIEF, "--finish"]
    with FileLock(second / ".lock"):
        ended = cotune("run", *asked, "--budget", "50ktok", "--json")
    assert ended.code == 0 and json.loads(ended.stdout) == {"out": str(second), "finishing": True}, ended.stderr
    assert (second / "finish").is_file() and not (first / "finish").exists()
    # A run that was not meant is refused, and is not asked either.
    other = cotune("run", *asked, "--budget", "25ktok", "--seed", "5")
    assert other.code == 2 and "seed" in other.stderr, other.stderr
    assert not (first / "finish").exists()


def test_an_interrupt_at_the_question_before_an_upload_ends_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(typer, "confirm", interrupted)
    with pytest.raises(typer.Exit) as ended:
        _ask(SimpleNamespace(rows=2, name="me/mine"), private=False)  # type: ignore[arg-type]
    assert ended.value.exit_code == 130


def test_watching_needs_a_file(cotune: Cotune, done: Done) -> None:
    ended = cotune("try", done.out, "--text", "{text}", "--watch")
    is_one_message(ended)
    assert "--prompt" in ended.stderr


def test_trying_the_winner_itself_changes_nothing(cotune: Cotune, done: Done) -> None:
    winner = json.loads((done.out / "summary.json").read_text())
    journal = [json.loads(line) for line in (done.out / "journal.jsonl").read_text().splitlines()]
    dev = next(event["value"]["dev"]["best_tuned"]["score"] for event in journal if event["kind"] == "confirm")
    found = json.loads(cotune("try", done.out, "--text", winner["best"]["prompt_text"], "--json").stdout)
    first = found["comparisons"][0]
    assert found["unfilled"] == ""
    if found["by_probe"]:
        # The probe that answered has learnt from dev, so both get one of the train rows by the same rule.
        assert (first["mine"], first["flipped"]) == (first["winner"], [])
    else:
        assert first["winner"] == pytest.approx(dev, abs=1e-6)


def test_a_word_in_braces_that_is_no_field_is_told(cotune: Cotune, done: Done) -> None:
    ended = cotune("try", done.out, "--text", "Of {labels}, for {customer}: {text} {day}")
    assert ended.code == 0, ended.stderr
    assert "{customer}, {day} in your prompt are no input fields, so the model reads them as written." in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("try", "OUT", "--text", "Which one?"), ("--text", "{text}")),
        (("try", "OUT", "--text", " "), ("empty", "{text}")),
        (("try", "OUT", "--prompt", "none.txt"), ("none.txt", "does not exist")),
        (("try", "nowhere", "--text", "{text}"), ("nowhere", "no such folder")),
        (("try", "OUT/adapters", "--text", "{text}"), ("adapters", "not a run's folder")),
        (("try", "YOUNG", "--text", "{text}"), ("no winner yet",)),
        (("report", "nowhere"), ("nowhere", "no such folder")),
    ],
)
def test_what_cannot_be_tried_is_told(
    cotune: Cotune, done: Done, tmp_path: Path, arguments: tuple[str, ...], told: tuple[str, ...]
) -> None:
    young = tmp_path / "young"
    young.mkdir()
    shutil.copy(done.out / "config.json", young)
    lines = (done.out / "journal.jsonl").read_text().splitlines(keepends=True)
    (young / "journal.jsonl").write_text("".join(lines[:3]))
    ended = cotune(*(text.replace("OUT", str(done.out)).replace("YOUNG", str(young)) for text in arguments))
    is_one_message(ended)
    assert all(fragment in ended.stderr for fragment in told)


def test_try_with_changed_data_is_refused(cotune: Cotune, done: Done) -> None:
    text = done.rows.read_text()
    try:
        done.rows.write_text(text.replace("apple", "melon"))
        ended = cotune("try", done.out, "--text", "{text}")
    finally:
        done.rows.write_text(text)
    is_one_message(ended)
    assert "data" in ended.stderr


def test_doctor_and_report_speak_json(cotune: Cotune, done: Done) -> None:
    assert isinstance(json.loads(cotune("doctor", "--json").stdout), dict)
    found = json.loads(cotune("report", done.out, "--json").stdout)
    assert Path(found["report"]).is_file()
    assert found["summary"] == json.loads((done.out / "summary.json").read_text())


def test_the_verdict_is_printed_if_the_page_cannot_be_written(cotune: Cotune, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    (folder / "report.html").mkdir()
    ended = cotune("report", folder)
    assert ended.code == 2 and "cannot write" in ended.stderr and "The winning prompt" in ended.stdout, ended


def test_a_report_without_a_summary_says_why_there_is_no_verdict(cotune: Cotune, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    (folder / "summary.json").write_text("{")
    ended = cotune("report", folder)
    assert ended.code == 0 and "no verdict" in ended.stderr and f"Report: {folder / 'report.html'}" in ended.stdout, ended


@pytest.mark.parametrize("command", ["report", "list", "list --json", "run --help"])
def test_a_reader_that_leaves_early_ends_a_command_without_a_message(tmp_path: Path, command: str) -> None:
    folder = finished(tmp_path / "run", [True] * 4)
    words = [*command.split(), *([] if "--help" in command else [str(folder if command == "report" else tmp_path)])]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-m", "cotune.cli", *words], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_name_that_the_terminals_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "的"
    folder.mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "cotune", "list", str(folder)]
    ended = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"No runs in" in ended.stdout and b"\\u7684" in ended.stdout and not ended.stderr
