"""``cotune serve`` as a process: how it starts, what it refuses to start with, how it ends with requests in flight."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundles import Bench, edit_json, forge
from servers import process, texts

from cotune.bundle import load
from cotune.cli import main

TOKEN = "a-long-and-secret-text"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        main(["serve", *map(str, arguments)])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "") and printed.err.count("\n") == 1
    return printed.err


def test_what_it_does_not_start_with(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bench.save(tmp_path / "best")
    monkeypatch.delenv("MY_TOKEN", raising=False)
    for host in ("0.0.0.0", "localhost", "::", "192.0.2.1"):
        assert "--token-env" in refusal(capsys, folder, "--host", host)
    assert "is not set" in refusal(capsys, folder, "--host", "0.0.0.0", "--token-env", "MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", "a\nb-secret")
    told = refusal(capsys, folder, "--host", "0.0.0.0", "--token-env", "MY_TOKEN")
    assert "printable ASCII" in told and "secret" not in told
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    told = refusal(capsys, folder, "--host", "192.0.2.1", "--token-env", "MY_TOKEN")
    assert "not an address of this machine" in told and TOKEN not in told
    for name in ("http://example.org", "a b", "", "example.org/x", "*example.org"):
        assert "--allowed-hosts" in refusal(capsys, folder, "--port", 0, "--allowed-hosts", f"example.org,{name}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "the port is in use" in refusal(capsys, folder, "--port", taken.getsockname()[1])
    assert "no such bundle" in refusal(capsys, tmp_path / "missing", "--port", 0)
    assert "given twice" in refusal(capsys, folder, folder, "--port", 0, "--dtype", "float32")


def test_a_bundle_whose_model_is_elsewhere_is_not_served(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bench.save(tmp_path / "best")
    asks = {"base_url": "https://api.example.test/v1", "model": "big", "key_env": "KEY", "timeout": 60, "way": {}}
    forge(folder, "prompt.json", edit_json(folder / "prompt.json", endpoint=asks))
    told = refusal(capsys, folder, "--port", 0)
    assert "behind an endpoint" in told and "cotune predict" in told and "--endpoint" not in told and "--key-env" not in told


NASTY = "spam\n2026 ERROR all is lost\x1b[2J\u202egnp\x9b"


def test_a_task_s_name_cannot_write_to_the_terminal(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bench.save(tmp_path / "best", task_name=NASTY)
    arguments = ["serve", str(folder), "--port", "0", "--dtype", "float32"]
    with subprocess.Popen([sys.executable, "-m", "cotune.cli", *arguments], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        line += server.stdout.read()
    assert server.returncode == 0
    assert line.startswith("Serving spam 2026 ERROR all is lost\\x1b[2J\\u202egnp\\x9b@") and "  (API: " in line
    assert line.count("\n") == 1
    refused = refusal(capsys, folder, folder, "--port", 0, "--dtype", "float32")
    assert "given twice" in refused and refused.strip().isprintable()


def test_sigterm_answers_all_that_is_in_flight(bench: Bench, tmp_path: Path) -> None:
    folder = bench.save(tmp_path / "best")
    predictor = load(folder, device="cpu", dtype="float32", threads=1)
    # So much that the server is at work long after it is told to end.
    rows, sent = [texts(190, 190 * i) for i in range(10)], threading.Semaphore(0)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with process(folder, "--token-env", "MY_TOKEN", "--batch", "8", "--drain", "200", MY_TOKEN=TOKEN) as (server, client):
        assert client.ask("/v1/models").status == 401

        def ask(i: int) -> list[str]:
            if i % 2:
                body = {"model": "questions", "stream": True, "messages": [{"role": "user", "content": rows[i][0]}]}
                lines = client.ask("/v1/chat/completions", body, sent=sent.release, **bearer).text.split("\n\n")
                assert lines[-2:] == ["data: [DONE]", ""]
                return [json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"]["content"]]
            reply = client.ask("/predict", {"rows": rows[i]}, sent=sent.release, **bearer)
            assert reply.status == 200, reply.text
            return [row["answer"] for row in reply.json["rows"]]

        with ThreadPoolExecutor(len(rows)) as pool, client.raw() as idle, client.raw() as late:
            idle.sendall(b"GET /hea")
            body = json.dumps({"text": "sent when the end had come"}).encode()
            head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            late.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
            found = [pool.submit(ask, i) for i in range(len(rows))]
            # All have arrived before the end is asked for: connections are taken in their order.
            assert all(sent.acquire(timeout=120) for _ in found)
            while client.ask("/health").json["waiting"] < 200:
                assert not all(each.done() for each in found), "the server was done before it was told to end"
                time.sleep(0.005)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            late.sendall(body[5:])
            assert late.recv(100).startswith(b"HTTP/1.1 200 ")
            for i, each in enumerate(found):
                asked = rows[i][:1] if i % 2 else rows[i]
                assert each.result() == predictor.predict(asked)
        out, err = server.communicate(timeout=120)
        assert (server.returncode, out, err) == (0, "", "")
        with pytest.raises(ConnectionRefusedError):
            client.raw()
