"""``cotune view``: what it serves, whom it refuses, how it starts and ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from report_runs import run_folder
from view_runs import GrowingRun, Viewer, viewing

from command_line import call
from cotune.report.view.pages import RunPage, Shown
from free_port import free_port


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    with viewing(run_folder(tmp_path_factory.mktemp("view") / "run")) as found:
        yield found


def test_it_serves_the_page_and_its_state(viewer: Viewer) -> None:
    status, page, headers = viewer.ask()
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert "the searched prompt gains 6.0 points." in page and "connect-src 'self'" in page.replace("&#x27;", "'")
    status, text, _ = viewer.ask("/state")
    state = json.loads(text)
    assert status == 200 and state["error"] == "" and f'data-version="{state["version"]}"' in page
    assert viewer.ask(method="HEAD")[:2] == (200, "")
    assert viewer.ask(Host=f"localhost:{viewer.port}", Origin=f"http://localhost:{viewer.port}")[0] == 200


def test_every_answer_keeps_other_sites_out(viewer: Viewer) -> None:
    for path, headers in (("/", {}), ("/state", {}), ("/nowhere", {}), ("/", {"Host": "evil.test"})):
        told = viewer.ask(path, **headers)[2]
        assert told["x-content-type-options"] == "nosniff" and told["x-frame-options"] == "DENY"
        assert told["cross-origin-resource-policy"] == "same-origin" and told["referrer-policy"] == "no-referrer"
        assert told["cache-control"] == "no-store" and "server" not in told and "access-control-allow-origin" not in told
    assert "frame-ancestors 'none'" in viewer.ask()[2]["content-security-policy"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "evil.test:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:{port}",
        "127.0.0.1:{port}.evil.test",
        "0.0.0.0:{port}",
    ],
)
@pytest.mark.parametrize("path", ["/", "/state"])
def test_other_hosts_are_refused(viewer: Viewer, host: str, path: str) -> None:
    status, body, _ = viewer.ask(path, Host=host.format(port=viewer.port))
    assert status == 421 and "points" not in body and "version" not in body


def test_a_request_without_a_host_is_refused(viewer: Viewer) -> None:
    assert viewer.ask(Host="")[0] in (400, 421)


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1"]
)
@pytest.mark.parametrize("path", ["/", "/state"])
def test_other_origins_are_refused(viewer: Viewer, origin: str, path: str) -> None:
    status, body, _ = viewer.ask(path, Origin=origin.format(port=viewer.port))
    assert status == 403 and "points" not in body and "version" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_is_for_reading(viewer: Viewer, method: str) -> None:
    status, _, headers = viewer.ask(method=method)
    assert status == 405 and headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/nowhere", "/journal.jsonl", "/../journal.jsonl", "/%2e%2e/journal.jsonl", "/report.html"])
def test_it_serves_no_files(viewer: Viewer, path: str) -> None:
    assert viewer.ask(path)[0] == 404


def test_it_listens_on_this_machine_alone(viewer: Viewer) -> None:
    listening = (
        [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
        if Path("/proc/net/tcp").exists()
        else []
    )
    if not listening:
        pytest.skip("this system does not list its sockets")
    assert [address for address in listening if address.endswith(f":{viewer.port:04X}")] == [f"0100007F:{viewer.port:04X}"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_stops_at_once_and_in_silence(tmp_path: Path, how: signal.Signals, code: int) -> None:
    folder = run_folder(tmp_path / "run")
    # A browser holds its connection open.
    with viewing(folder) as found, socket.create_connection(("127.0.0.1", found.port)) as held:
        held.sendall(f"GET /state HTTP/1.1\r\nHost: 127.0.0.1:{found.port}\r\n\r\n".encode())
        assert b"200 OK" in held.recv(4096)
        started = time.monotonic()
        assert found.stop(how) == (code, "")
        assert time.monotonic() - started < 10


def test_a_port_in_use_and_a_folder_that_is_no_run_are_told(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = call("view", folder, "--port", port)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"--port {port}: the port is in use." in err and "0 to get a free one" in err
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "missing", folder / "journal.jsonl"):
        code, out, err = call("view", place)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"{place}: {'this is not a run' if place.exists() else 'there is no such folder'}" in err


def test_people_get_the_address_and_the_port_they_asked_for(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    port = free_port()
    command = [sys.executable, "-m", "cotune.cli", "view", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert f"http://127.0.0.1:{port}/" in line and "Ctrl-C" in line
    assert (process.returncode, err) == (0, "")


def test_the_page_is_made_again_only_when_the_run_changed(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=3)
    page = RunPage(run.folder, pause=0)
    first = page.current()
    assert page.current() is first and page.current() is first
    run.grow(5)
    second = wait_for_another(page, first.version)
    assert second.html != first.html and "not ended" in second.html
    run.append('{"n": 5, "kind": "ra')
    torn = wait_for_another(page, second.version)
    assert torn.error == "" and "cannot be read" not in torn.html
    run.end()
    assert "the searched prompt gains" in wait_for_another(page, torn.version).html


def wait_for(page: RunPage, what: Callable[[Shown], bool]) -> Shown:
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        found = page.current()
        if what(found):
            return found
        time.sleep(0.02)
    raise AssertionError("the page was not made again")


def wait_for_another(page: RunPage, version: str) -> Shown:
    return wait_for(page, lambda shown: shown.version != version)


def test_between_two_makings_there_is_a_pause(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=3)
    page = RunPage(run.folder, pause=60)
    first = page.current()
    run.grow(5)
    assert page.current() is first


def test_a_run_that_is_about_to_begin_gets_a_page_that_waits(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=0)
    run.journal.unlink()
    page = RunPage(run.folder, pause=0)
    waiting = page.current()
    assert waiting.version == "" and waiting.error == "" and "about to begin" in waiting.html
    run.grow(2)
    run.journal.write_text("".join(run.lines[:2]))
    assert "not ended" in wait_for_another(page, "").html


def test_what_goes_wrong_is_told_and_the_last_page_stays(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run", events=4)
    page = RunPage(run.folder, pause=0)
    good = page.current()
    run.journal.unlink()
    told = wait_for(page, lambda shown: shown.error != "")
    assert told.version == good.version and told.html == good.html and "not a run's folder" in told.error
    run.journal.write_text("".join(run.lines[:6]))
    assert wait_for_another(page, good.version).error == ""


def test_who_asks_for_nothing_makes_room_for_others(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    with viewing(folder) as found, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", found.port))) for _ in range(150)]
        for each in silent[::2]:
            each.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        assert found.ask()[0] == 200
        # The oldest made room for the others.
        silent[0].settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(100) == b""
        assert found.stop() == (0, "")
