"""The page of ``cotune view``, served by the command or in this process, and runs whose journal grows beside it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from report_runs import made_rows, run_folder

from cotune.report.view.pages import RunPage
from cotune.report.view.serve import make_app
from cotune.web import LOOPBACK, ReadyServer, bounded_config, listen

LABELS, TEXTS = ("animal", "fruit", "tool"), ("a plain row", "another one")


@dataclass(frozen=True)
class Viewer:
    """A running ``cotune view``."""

    process: subprocess.Popen[str]
    url: str
    port: int

    def ask(self, path: str = "/", *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, body, headers; the Host header is the right one unless ``Host`` is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": f"127.0.0.1:{self.port}", **headers}.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders()
            reply = connection.getresponse()
            return reply.status, reply.read().decode(), {k.lower(): v for k, v in reply.getheaders()}

    def stop(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Ask it to stop; exit code and what it complained about."""
        self.process.send_signal(how)
        _, complaints = self.process.communicate(timeout=120)
        return self.process.returncode, complaints


@contextlib.contextmanager
def viewing(folder: Path, *options: str) -> Iterator[Viewer]:
    """Serve a run's folder on a free port."""
    command = [sys.executable, "-m", "cotune.cli", "view", str(folder), "--no-open", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        url = json.loads(line)["url"]
        yield Viewer(process, url, int(url.rstrip("/").rsplit(":", 1)[1]))
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def page_served(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve a run's page in a thread of this process, for tests of the page; yields its address and port."""
    with listen(0) as listening:
        port, ready = listening.getsockname()[1], threading.Event()
        config = bounded_config(make_app(RunPage(folder), port), most=32, log_level="error", drain_s=2)
        server = ReadyServer(config, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert ready.wait(120)
        try:
            yield f"http://{LOOPBACK}:{port}/", port
        finally:
            server.should_exit = server.force_exit = True
            thread.join(120)


class GrowingRun:
    """A run whose journal is written line by line.

    Args:
        folder: that it is written to.
        events: lines that stand there at first.
        rows: test rows whose answers the folder holds from the start, so that the matrix can be filtered; 0 for none.
    """

    def __init__(self, folder: Path, *, events: int, rows: int = 0) -> None:
        self.folder = run_folder(folder, rows=rows or 40)
        self.journal = folder / "journal.jsonl"
        self.lines = self.journal.read_text(encoding="utf-8").splitlines(keepends=True)
        self._summary = (folder / "summary.json").read_text(encoding="utf-8")
        (folder / "summary.json").unlink()
        for name in ("test_rows.json", "dev_rows.json"):
            (folder / name).unlink()
        if rows:
            (folder / "test_rows.json").write_text(json.dumps(made_rows(rows, LABELS, TEXTS)), encoding="utf-8")
        self.written = 0
        self.journal.write_text("", encoding="utf-8")
        self.grow(events)

    def replace(self, path: Path, text: str) -> None:
        """Write a file anew, so that whoever reads it meanwhile finds all of the old one or of the new one."""
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)

    def append(self, text: str) -> None:
        """Write to the journal as it is."""
        with self.journal.open("a", encoding="utf-8") as stream:
            stream.write(text)

    def grow(self, to: int) -> None:
        """Write lines until so many stand there."""
        self.append("".join(self.lines[self.written : to]))
        self.written = to

    def end(self) -> None:
        """Write what is missing, and the summary."""
        self.grow(len(self.lines))
        self.replace(self.folder / "summary.json", self._summary)
