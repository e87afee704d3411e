"""The trackers themselves, each with the real package and a real run: MLflow on SQLite, wandb offline, TensorBoard's files.

They take packages that the test suite does without: `make test-tracking`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from command_line import call
from cotune.bundle import load
from cotune.run_files import JOURNAL, SUMMARY, TRACKING
from cotune.tracking.tracker import Tracked
from free_port import free_port
from tiny import save_tiny

WORDS = {"fruit": ("apple", "pear"), "animal": ("cat", "dog"), "tool": ("saw", "axe")}
ROWS = [(f"{WORDS[label][i % 2]} {i} {WORDS[label][i % 2]}", label) for i in range(40) for label in WORDS]
SETTINGS = (
    "name=mails",
    "search.pool=4",
    "tune.max_epochs=2",
    "limit.test=30",
    "limit.train=80",
    "engine.threads=1",
)
SECRET = "key-that-nobody-may-see"


def run(out: Path, *more: str) -> Any:
    place = out.parent
    given = ("--input=text", "--output=label", "--model", place / "model", "--budget=60ktok", "--out", out)
    return call("run", place / "rows.csv", *given, *SETTINGS, *more)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended and was told to nobody."""
    if not any(map(find_spec, ("mlflow", "wandb", "tensorboard"))):
        pytest.skip("no tracker is installed: make test-tracking")
    place = tmp_path_factory.mktemp("runs")
    save_tiny(place / "model")
    (place / "rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    ended = run(place / "run")
    assert ended.code == 0, ended.stderr
    return place / "run"


@pytest.fixture
def copy(done: Path) -> Iterator[Path]:
    """The same run in a folder that the test may change."""
    folder = done.parent / "copy"
    shutil.copytree(done, folder)
    yield folder
    shutil.rmtree(folder)


def killed(done: Path, copy: Path) -> Path:
    """Make the copy a run that was killed after its first cycle."""
    lines = (done / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    cut = next(place for place, line in enumerate(lines) if json.loads(line)["kind"] == "cycle") + 1
    (copy / JOURNAL).write_text("".join(lines[:cut]), encoding="utf-8")
    (copy / SUMMARY).unlink()
    return copy


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found


def cycles_of(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["kind"] == "cycle"]


def assert_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


# MLflow -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mails")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    found.set_tracking_uri(uri)
    yield found
    while found.active_run():
        found.end_run()
    found.set_tracking_uri(None)


def the_run(mlflow: Any) -> Any:
    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("mails").experiment_id])
    return found


def test_mlflow_has_the_run_with_prompt_and_model_registered(copy: Path, mlflow: Any) -> None:
    ended = run(copy, "tracking=mlflow")
    assert ended.code == 0 and "tracking in" not in ended.stdout + ended.stderr
    client, found, summary = mlflow.MlflowClient(), the_run(mlflow), summary_of(copy)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "copy")
    assert found.data.params["search.pool"] == "4" and found.data.params["tune.rank"] == "16"
    metrics = found.data.metrics
    for kind, named in (("arms", summary["arms"]), ("references", summary["references"])):
        for name, one in named.items():
            told = [metrics[f"test/{name}/{part}"] for part in ("score", "low", "high", "log_loss")]
            assert told == pytest.approx([one["score"], *one["ci"], one["log_loss"]]), kind
    gain = summary["gains"]["both"]
    assert [metrics[f"gain/both/{part}"] for part in ("value", "low", "high")] == pytest.approx([gain["value"], *gain["ci"]])
    verdict = summary["first_verdict"]
    assert metrics["first_verdict/score"] == pytest.approx(verdict["score"])
    cycles = cycles_of(copy)
    scores = client.get_metric_history(found.info.run_id, "cycle/log_loss")
    assert [(m.step, m.value) for m in scores] == [(round(e["active_s"]), e["value"]["dev_log_loss"]) for e in cycles]
    tokens = {m.value for m in client.get_metric_history(found.info.run_id, "tokens")}
    assert {event["value"]["tokens"] for event in cycles} <= tokens
    assert {"report.html", "summary.json", "config.json", "bundle", "test.json"} <= {
        file.path for file in client.list_artifacts(found.info.run_id)
    }
    loaded = mlflow.genai.load_prompt("prompts:/mails-prompt/1")
    said = loaded.template if isinstance(loaded.template, str) else loaded.template[-1]["content"]
    assert "{{text}}" in said and "{labels}" not in said
    rows = [{"text": text} for text, _ in ROWS[:12]]
    model = mlflow.pyfunc.load_model("models:/mails/1")
    assert list(model.predict(rows)) == load(copy).predict(rows)
    assert not [path for ending in ("pkl", "pickle") for path in Path.cwd().rglob(f"*.{ending}")]
    assert_no_secret(copy)
    # Again, it is told nothing.
    run(copy, "tracking=mlflow")
    assert len(client.search_model_versions("name='mails'")) == 1


def test_a_killed_run_goes_on_in_the_same_mlflow_run(done: Path, copy: Path, mlflow: Any) -> None:
    killed(done, copy)
    before = mlflow.start_run(run_name="begun")
    mlflow.end_run("KILLED")
    told = len((copy / JOURNAL).read_text().splitlines())
    (copy / TRACKING).write_text(json.dumps({"mlflow": {"run": before.info.run_id, "told": told, "ended": False}}))
    assert run(copy, "tracking=mlflow").code == 0
    found = the_run(mlflow)
    assert (found.info.run_id, found.info.status) == (before.info.run_id, "FINISHED")
    assert "test/best_tuned/score" in found.data.metrics and "first_verdict/score" not in found.data.metrics


def test_a_deleted_mlflow_run_is_sent_to_a_new_one(tmp_path: Path, mlflow: Any) -> None:
    from cotune.tracking.mlflow import MlflowTracker

    tracker, tracked = MlflowTracker(), Tracked("mails", "mails", tmp_path, {})
    first = tracker.start(tracked, None)
    tracker.end("stopped")
    mlflow.delete_run(first)
    second = tracker.start(tracked, first)
    assert second != first and the_run(mlflow).info.run_id == second


def test_no_mlflow_server_is_told_before_anything_is_done(done: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    away = f"http://me:{SECRET}@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away)
    mlflow.set_tracking_uri(away)
    out = done.parent / "never"
    ended = run(out, "tracking=mlflow")
    assert ended.code == 2 and "MLFLOW_TRACKING_URI" in ended.stderr and SECRET not in ended.stderr
    assert not out.exists()


def test_an_mlflow_server_that_goes_away_ends_no_run(done: Path, copy: Path, mlflow: Any, tmp_path: Path) -> None:
    killed(done, copy)
    (copy / TRACKING).write_text(json.dumps({"mlflow": {"run": "0" * 32, "told": 1, "ended": False}}))
    there = os.environ["MLFLOW_TRACKING_URI"]
    from cotune.tracking.mlflow import MlflowTracker

    class Leaving(MlflowTracker):
        def files(self, run: Any) -> None:
            mlflow.set_tracking_uri("http://127.0.0.1:9")
            super().files(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cotune.tracking.mlflow.MlflowTracker", Leaving)
        ended = run(copy, "tracking=mlflow")
    assert ended.code == 0 and (copy / SUMMARY).is_file()
    assert ended.stdout.count("tracking in mlflow stopped") == 1
    # Once it is back, the same command tells the rest: the run of the id in the folder was not there, so one was begun.
    mlflow.set_tracking_uri(there)
    assert run(copy, "tracking=mlflow").code == 0
    found = the_run(mlflow)
    assert found.info.status == "FINISHED" and "bundle" in {
        file.path for file in mlflow.MlflowClient().list_artifacts(found.info.run_id)
    }


def test_an_export_is_served_by_mlflow_and_answers_as_predict_does(done: Path, mlflow: Any, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    ended = call("export", done, "--to", "mlflow", "--out", out, "--json")
    assert (ended.code, ended.stderr) == (0, "")
    # Bundle and base model lie in it: it needs nothing from where it was made.
    moved = tmp_path / "moved"
    out.rename(moved)
    texts = [text for text, _ in ROWS[:20]]
    wanted = load(done).predict(texts)
    model = mlflow.pyfunc.load_model(str(moved))
    assert list(model.predict([{"text": text} for text in texts])) == wanted
    detailed = model.predict([{"text": texts[0]}], params={"probabilities": True})[0]
    expected = load(done).predict([texts[0]], probabilities=True)[0]
    assert detailed["answer"] == wanted[0] and detailed["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    # In Python as in a table of numbers.
    assert model.predict([{"text": 7}]) == load(done).predict([{"text": 7}])

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(moved), "--env-manager", "local"]
    # cotune itself lies in the folder; MLflow looks for its server on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        try:
            asked = {"dataframe_records": [{"text": text} for text in texts]}
            assert posted(port, asked, server, tmp_path / "server.log")["predictions"] == wanted
            answer = posted(port, {**asked, "params": {"probabilities": True}}, server, tmp_path / "server.log")["predictions"]
            assert [one["answer"] for one in answer] == wanted
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            server.wait(120)


def posted(port: int, asked: dict[str, Any], server: subprocess.Popen[bytes], log: Path) -> Any:
    """The server's answer, once it listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(240):
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except ConnectionError:
            time.sleep(0.5)
        except OSError as error:
            if not isinstance(getattr(error, "reason", None), ConnectionError):
                raise
            time.sleep(0.5)
    raise AssertionError("the server does not listen")


# wandb ------------------------------------------------------------------------------------------------------------


def test_wandb_offline_keeps_the_run(done: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    killed(done, copy)
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "PROJECT": "mails", "API_KEY": SECRET + "0" * 20}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    ended = run(copy, "tracking=wandb")
    assert ended.code == 0 and "tracking in" not in ended.stdout + ended.stderr, ended.stdout
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    written = [record for path in kept.glob("*.wandb") for record in records(path)]
    history = [items_of(record.history.item) for record in written if record.WhichOneof("record_type") == "history"]
    cycles = cycles_of(copy)
    told = {point["cycle/log_loss"]: point for point in history if "cycle/log_loss" in point}
    for event in cycles:
        point = told[event["value"]["dev_log_loss"]]
        assert (point["seconds"], point["tokens"]) == (event["active_s"], event["value"]["tokens"])
    assert [point["_step"] for point in history] == sorted(point["_step"] for point in history)
    (begun,) = [record.run for record in written if record.WhichOneof("record_type") == "run"]
    assert (begun.project, items_of(begun.config.update)["tune.rank"]) == ("mails", 16)
    summary = {key: value for record in written for key, value in items_of(record.summary.update).items()}
    assert summary["test/best_tuned/score"] == summary_of(copy)["arms"]["best_tuned"]["score"]
    artifacts = {record.artifact.name: {c.path for c in record.artifact.manifest.contents} for record in written}
    assert {"manifest.json", "prompt.json"} <= artifacts["mails"]
    assert artifacts["mails-run"] == {"report.html", "summary.json", "config.json"}
    run_id = json.loads((copy / TRACKING).read_text())["wandb"]["run"]
    assert run_id and kept.name.endswith(run_id)
    assert_no_secret(copy)


def records(path: Path) -> Iterator[Any]:
    """What wandb wrote to its own file: blocks of 32 KiB, in which each part has its checksum, length and kind before it."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        # A whole record, or the last part of one.
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def items_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_wandb_without_a_key_is_told_before_anything_is_done(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    # In a process, since wandb reads its variables once.
    given = [
        str(done.parent / "rows.csv"),
        "--input=text",
        "--output=label",
        "--out",
        str(tmp_path / "never"),
        "tracking=wandb",
    ]
    ended = subprocess.run([sys.executable, "-m", "cotune.cli", "run", *given], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "WANDB_API_KEY" in ended.stderr and "WANDB_MODE=offline" in ended.stderr
    assert not (tmp_path / "never").exists()


# TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_reads_the_run_back(done: Path, copy: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed(done, copy)
    assert run(copy, "tracking=tensorboard").code == 0
    found = EventAccumulator(str(copy / "tensorboard"))
    found.Reload()
    cycles = cycles_of(copy)
    assert [(each.step, each.value) for each in found.Scalars("cycle/log_loss")] == [
        (round(e["active_s"]), pytest.approx(e["value"]["dev_log_loss"])) for e in cycles
    ]
    assert {e["value"]["tokens"] for e in cycles} <= {int(each.value) for each in found.Scalars("tokens")}
    assert found.Scalars("test/best_tuned/score")[-1].value == pytest.approx(summary_of(copy)["arms"]["best_tuned"]["score"])
    texts = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "tune.rank | 16" in texts["config/text_summary"] and "| tfidf |" in texts["test/text_summary"]
