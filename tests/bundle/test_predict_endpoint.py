"""A bundle whose model is behind an endpoint, over real HTTP: what was paid is kept, whatever becomes of other rows."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_server import Handler, Reply, chat_server, completion, send
from command_line import call
from cotune.bundle import load, save_bundle
from cotune.bundle.unfinished import stored_answers
from cotune.endpoint import Client, Endpoint, EndpointError
from cotune.endpoint.request_format import RequestFormat
from cotune.evaluate.decision import RAW
from cotune.model.remote.model import RemoteModel
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output

ROWS = [f"row {i}" for i in range(12)]


def saved(folder: Path, url: str) -> Path:
    model = RemoteModel(Client(Endpoint(url, "m")), way=RequestFormat(alternatives=0, tells_probabilities=False))
    return save_bundle(
        folder / "best",
        task_name="kinds",
        input_fields=("text",),
        output_field="kind",
        output=Output("label", ("animal", "fruit")),
        metric="accuracy",
        prompt=Prompt("Name the kind: {labels}.", "{text}", "Kind:"),
        decision=RAW,
        adapter_folder=None,
        model=model,
        metrics={},
        model_name="openai:m",
    )


def answering(status: Callable[[str], int]) -> Reply:
    """Says that each row is a fruit where its status is 200."""

    def reply(handler: Handler) -> None:
        asked = re.search(r"row \d+", handler.request_body["messages"][-1]["content"])
        assert asked is not None
        code = status(asked[0])
        send(code, completion("fruit") if code == 200 else b"not this one")(handler)

    return reply


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("\n".join(["text", *ROWS, ""]))
    return tmp_path / "rows.csv"


def test_a_refused_row_gets_an_error_and_all_others_their_answers(tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "out.csv"
    with chat_server(answering(lambda row: 400 if row in ("row 3", "row 8") else 200)) as server:
        bundle = saved(tmp_path, server.url)
        ended = call("predict", bundle, rows, "--out", out, "--batch", "5")
        assert ended.code == 0 and "2 rows could not be answered; the first: " in ended.stderr
        assert f"{rows}, line 5: the endpoint answered 400: not this one" in ended.stderr
        assert len(server.seen) == len(ROWS), "no row is paid twice"
        found = table(out)
        assert [row["text"] for row in found if not row["answer"]] == ["row 3", "row 8"]
        assert all(("answered 400" in row["error"]) == (not row["answer"]) for row in found)
        lines = "".join(json.dumps({"text": row}) + "\n" for row in ROWS)
        streamed = [json.loads(line) for line in call("predict", bundle, stdin=lines).stdout.splitlines()]
    assert [row["answer"] or "" for row in streamed] == [row["answer"] for row in found]
    assert [row["text"] for row in streamed if "error" in row] == ["row 3", "row 8"]


def test_answers_before_a_failure_are_written_and_no_row_is_asked_after_it(tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "out.csv"
    fifth_asked = threading.Event()

    def status(row: str) -> int:
        # Rows of a batch are asked at the same time, and one that is not yet asked when another fails is never asked.
        if int(row[4:]) < 5:
            if row == "row 4":
                fifth_asked.set()
            return 200
        assert fifth_asked.wait(30)
        return 401

    with chat_server(answering(status)) as server:
        bundle = saved(tmp_path, server.url)
        ended = call("predict", bundle, rows, "--out", out, "--batch", "4")
        assert ended.code == 1 and "the endpoint answered 401" in ended.stderr
        assert f"5 of 12 rows are answered in {out}" in ended.stderr
        assert len(server.seen) <= 8
        found = table(out)
        assert [row["answer"] for row in found] == ["fruit"] * 5 + [""] * 7
        assert ["answered 401" in row["error"] for row in found] == [False] * 5 + [True] * 7
        lines = "".join(json.dumps({"text": row}) + "\n" for row in ROWS)
        streamed = call("predict", bundle, "--batch", "4", stdin=lines)
        assert streamed.code == 1 and "the endpoint answered 401" in streamed.stderr
        told = [json.loads(line) for line in streamed.stdout.splitlines()]
        assert [row["answer"] for row in told] == ["fruit"] * 5 + [None] * 3


@pytest.mark.parametrize("status", [401, 422])
def test_without_any_answer_no_file_is_written_and_no_further_row_is_asked(tmp_path: Path, rows: Path, status: int) -> None:
    out = tmp_path / "out.csv"
    with chat_server(answering(lambda row: status)) as server:
        bundle = saved(tmp_path, server.url)
        ended = call("predict", bundle, rows, "--out", out, "--batch", "3")
        assert ended.code == 1 and f"answered {status}" in ended.stderr and not out.exists()
        assert len(server.seen) <= 3, "a server that refuses every row of a batch refuses the others too"
        lines = "".join(json.dumps({"text": row}) + "\n" for row in ROWS)
        streamed = call("predict", bundle, "--batch", "3", stdin=lines)
        assert streamed.code == 1 and len(streamed.stdout.splitlines()) == 3 and len(server.seen) <= 6


def test_the_card_of_an_endpoints_bundle_says_nothing_of_shortened_rows(tmp_path: Path) -> None:
    card = (saved(tmp_path, "http://127.0.0.1:1/v1") / "README.md").read_text(encoding="utf-8")
    assert "## Limits" in card and "lose a part of" not in card


@pytest.mark.parametrize("right", ["fruit", "animal"])
def test_a_refused_row_counts_as_wrong_where_a_bundle_is_evaluated(tmp_path: Path, right: str) -> None:
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\n".join(["text,kind", *(f"{row},{right if row == 'row 3' else 'fruit'}" for row in ROWS), ""]))
    with chat_server(answering(lambda row: 400 if row == "row 3" else 200)) as server:
        bundle = saved(tmp_path, server.url)
        ended = call("evaluate", bundle, labelled, "--json")
        shown = call("evaluate", bundle, labelled)
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["score"] == pytest.approx(11 / 12) and (told["refused"], told["right"]) == (1, 11)
    assert "The endpoint refused 1 row, which count as wrong." in shown.stdout


@pytest.mark.parametrize("command", ["evaluate", "label", "predict"])
def test_answers_before_a_failure_are_stored_until_the_command_succeeds(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("COTUNE_CACHE", str(cache))
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("\n".join(["text,kind", *(f"{row},fruit" for row in ROWS), ""]))
    answered: list[str] = []

    def status(row: str) -> int:
        if len(answered) >= 5 and row not in answered and not well:
            return 401
        answered.append(row)
        return 200

    well: list[bool] = []
    with chat_server(answering(status)) as server:
        bundle = saved(tmp_path, server.url)
        arguments = (
            ("evaluate", bundle, labelled, "--batch", "4", "--json")
            if command == "evaluate"
            else ("label", bundle, rows, "--n", "12", "--json")
            if command == "label"
            else ("predict", bundle, rows, "--batch", "4", "--json", "--out", tmp_path / "answers.csv")
        )
        ended = call(*arguments)
        assert ended.code == 1 and "the endpoint answered 401" in ended.stderr
        kept = list((cache / "answers").iterdir())
        assert len(kept) == 1 and kept[0].suffix == ".sqlite"
        assert f"{len(answered)} answers of 12 rows are stored; the same command asks for the others only" in ended.stderr
        well.append(True)
        again = call(*arguments)
        assert again.code == 0, again.stderr
    assert sorted(answered) == sorted(ROWS), "no row is paid twice"
    assert not list((cache / "answers").iterdir())
    found = json.loads(again.stdout)
    assert (
        found["score"] == 1
        if command == "evaluate"
        else found["rows"] == 12
        if command == "predict"
        else len(found["rows"]) == 12
    )


def test_nothing_is_stored_where_the_first_row_failed(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    with chat_server(answering(lambda row: 401)) as server:
        ended = call("label", saved(tmp_path, server.url), rows, "--json")
    assert ended.code == 1 and "stored" not in ended.stderr and not list((tmp_path / "cache" / "answers").iterdir())


def test_a_second_command_on_the_same_rows_does_not_pay_for_them_too(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    with chat_server(answering(lambda row: 200)) as server:
        bundle = saved(tmp_path, server.url)
        with stored_answers(load(bundle), [{"text": row} for row in ROWS]):
            ended = call("label", bundle, rows, "--json")
        assert ended.code == 3 and "another command is asking the endpoint about the same rows" in ended.stderr
        assert not server.seen


def test_rows_that_an_endpoint_refuses_are_not_picked_for_labelling(
    tmp_path: Path, rows: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with chat_server(answering(lambda row: 400 if row in ("row 3", "row 8") else 200)) as server:
        ended = call("label", saved(tmp_path, server.url), rows, "--n", "12", "--json")
    assert ended.code == 0, ended.stderr
    assert {one["row"]["text"] for one in json.loads(ended.stdout)["rows"]} == {*ROWS} - {"row 3", "row 8"}
    assert "2 of 12 rows were refused by the endpoint and are left out" in caplog.text


def test_a_loaded_bundle_answers_after_a_failure(tmp_path: Path) -> None:
    ill = ["row 7"]
    with chat_server(answering(lambda row: 403 if row in ill else 200)) as server:
        predictor = load(saved(tmp_path, server.url))
        with pytest.raises(EndpointError, match="403"):
            predictor.predict(ROWS)
        ill.clear()
        assert predictor.predict(ROWS) == ["fruit"] * len(ROWS)


def test_such_a_bundle_has_no_weights_to_export(tmp_path: Path) -> None:
    """Whoever allowed the server would be told only then, and the command has no option for it."""
    ended = call("export", saved(tmp_path, "https://api.example.com/v1"), "--out", tmp_path / "out")
    assert ended.code == 2 and "behind an endpoint, so there are no weights here" in ended.stderr
    assert "--endpoint" not in ended.stderr and not (tmp_path / "out").exists()
