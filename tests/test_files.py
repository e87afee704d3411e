"""Files that appear whole or not at all, on disks that are full and in processes that are killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cotune.bundle.place import atomic_folder
from cotune.cycle.journal import Journal
from cotune.errors import BusyError, InputError
from cotune.files import (
    absolute,
    atomic_path,
    check_place,
    decode_json,
    expanded,
    known_json,
    load_json,
    locked,
    make_folder,
    read_text,
    remove_stale,
    slug,
    write_json,
    write_text,
)
from cotune.run_files import JOURNAL

_WRITE = """
import sys
from pathlib import Path
from cotune.bundle.place import atomic_folder
from cotune.errors import CotuneError
from cotune.files import write_text

def write(place):
    for kind in ("file", "folder"):
        try:
            if kind == "file":
                write_text(place, "x" * 200_000)
            else:
                with atomic_folder(place) as folder:
                    write_text(folder / "weights", "x" * 200_000)
        except CotuneError as error:
            yield f"{kind} {error.exit_code} {error}"

"""


def _told_of_space(text: str, place: Path) -> None:
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines] == [["file", "2"], ["folder", "2"]], text
    assert all(f"cannot write {place}" in line and "Free some space" in line for line in lines)
    assert sorted(p.name for p in place.parent.iterdir() if not p.name.endswith(".lock")) == ["old"]


def test_a_file_limit_is_told(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    said, place = tmp_path / "said", tmp_path / "disk" / "new"
    (place.parent / "old").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        code, names = 1, {}
        try:
            exec(_WRITE, names)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            said.write_text("\n".join(names["write"](place)))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    _told_of_space(said.read_text(), place)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002])
def test_who_may_read_is_for_the_umask_to_say(umask: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("open to all")
    source.chmod(0o666)
    before = os.umask(umask)
    try:
        write_text(tmp_path / "new" / "file", "text")
        with atomic_path(tmp_path / "replaced") as temporary:
            temporary.unlink()
            temporary.write_text("written anew")
            temporary.chmod(0o666)
        with atomic_folder(tmp_path / "bundle") as folder:
            write_text(folder / "inner" / "file", "text")
            shutil.copy(source, folder / "copy")
    finally:
        os.umask(before)
    files = ("new/file", "replaced", "bundle/inner/file", "bundle/copy")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (*files, "new", "bundle", "bundle/inner")}
    assert modes == {name: (0o666 if name in files else 0o777) & ~umask for name in modes}


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """On a real file system of 64 KiB."""
    script, disk = tmp_path / "write.py", tmp_path / "disk"
    script.write_text(_WRITE + "print(*write(Path(sys.argv[1])), sep='\\n')")
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=64k tmpfs "{disk}"'
    own = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    # Only this shell sees the mount, so it shows what is left there too.
    line = f'{mount} && mkdir "{disk}/old" && "{sys.executable}" "{script}" "{disk}/new"; code=$?; '
    line += f'cp -r "{disk}" "{tmp_path}/after"; exit $code'
    done = subprocess.run([*own, line], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    shutil.copytree(tmp_path / "after", disk, dirs_exist_ok=True)
    _told_of_space(done.stdout, disk / "new")
    assert done.stdout.count("No space left") == 2


def test_a_file_limit_that_safetensors_meets_is_told(tmp_path: Path) -> None:
    """Its own errors are none of the system's."""
    pytest.importorskip("resource")
    script, place = tmp_path / "write.py", tmp_path / "new"
    script.write_text("""
import resource, sys
from pathlib import Path
import numpy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from cotune.bundle.place import atomic_folder
from cotune.errors import InputError

def tried(work):
    try:
        with atomic_folder(Path(sys.argv[1])) as folder:
            work(folder)
    except (InputError, SafetensorError) as error:
        print(type(error).__name__, error)

def damaged(folder):
    (folder / "weights").write_bytes(b"none")
    with safe_open(folder / "weights", "numpy"):
        pass

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
tried(lambda folder: save_file({"weights": numpy.zeros(100_000)}, folder / "weights"))
tried(damaged)
""")
    done = subprocess.run([sys.executable, str(script), str(place)], capture_output=True, text=True)
    full, other = done.stdout.splitlines()
    assert full.startswith(f"InputError cannot write {place} (File too large). Free some space"), done.stderr
    assert other.startswith("SafetensorError"), "what is no error of the system is another one"
    assert not place.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/sub/new"):
        write_text(tmp_path / "file" / "sub" / "new", "")


@pytest.mark.parametrize(
    ("number", "first"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "Allow writing there"),
        (errno.EACCES, "Allow writing there"),
        (errno.EISDIR, "A folder has that name"),
        (errno.ENOTDIR, "where a folder is needed"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
    ],
)
def test_what_helps_is_told_by_what_is_wrong(tmp_path: Path, number: int, first: str) -> None:
    with pytest.raises(InputError, match=f"cannot write .*{first}"), atomic_path(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, told in (
        (tmp_path, "A folder has that name"),
        (tmp_path / "file" / "sub" / "new", "where a folder is needed"),
        (tmp_path / ("x" * 300) / "new", "Choose a shorter name"),
    ):
        with pytest.raises(InputError, match=told) as error:
            check_place(place)
        assert "space" not in str(error.value)
    for place in (tmp_path / "file", tmp_path / "new", tmp_path / "sub" / "sub" / "new"):
        check_place(place)
    assert not (tmp_path / "sub").exists()


def test_an_error_that_is_not_the_disks_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "new", float("nan"))
    assert not list(tmp_path.iterdir())


_DIE = """
import os, signal, sys
from pathlib import Path
from cotune.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    deep = tmp_path / "adapters" / "abc"
    dead = subprocess.run([sys.executable, "-c", _DIE, deep / "weights"])
    assert dead.returncode == -signal.SIGKILL
    assert len(list(deep.iterdir())) == 1
    others = [tmp_path / ".lock", tmp_path / ".env.1.txt", tmp_path / ".best.old", deep / "weights.1-abc.tmp"]
    for path in others:
        path.write_text("")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        busy = tmp_path / f".report.html.{living.pid}-abcdefgh.tmp"
        busy.write_text("")
        assert remove_stale(tmp_path) == 1
        assert {p for p in tmp_path.rglob("*") if p.is_file()} == {*others, busy}
        living.communicate(b"\n")
    assert remove_stale(tmp_path) == 1
    assert not busy.exists()


def test_a_temporary_name_says_whose_it_is(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new") as temporary:
        assert temporary.name.startswith(f".new.{os.getpid()}-")
        assert temporary.name.endswith(".tmp")
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_process_that_got_the_same_number_as_a_dead_one_removes_its_files(tmp_path: Path) -> None:
    """In containers the run's process has the same number every time."""
    (tmp_path / f".new.{os.getpid()}-abcdefgh.tmp").write_text("")
    assert remove_stale(tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [("gone.txt", "does not exist"), ("", "is a folder"), ("latin.txt", "not UTF-8"), ("a\0b", "a name that no file can have")],
)
def test_a_text_that_cannot_be_read_is_told(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=told) as caught:
        read_text(tmp_path / name, "the prompt file")
    assert "the prompt file" in str(caught.value) and caught.value.hint


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, by what it holds, and what gets its name, in their order."""
    told: list[str] = []
    replace = Path.replace

    def synced(handle: int) -> None:
        open_file = Path(f"/proc/self/fd/{handle}")
        told.append("sync names" if open_file.is_dir() else "sync " + open_file.read_text())

    def named(self: Path, target: Path) -> Path:
        told.append(f"name {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    return told


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be read back here")
def test_a_file_is_written_through_before_it_gets_its_name(tmp_path: Path, order: list[str]) -> None:
    write_text(tmp_path / "a.txt", "whole")
    assert order == ["sync whole", "name a.txt", "sync names"], "without its new name a file may be gone after a loss of power"


def test_the_names_of_new_folders_are_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Path] = []
    monkeypatch.setattr("cotune.files.sync", lambda path: told.append(path))
    make_folder(tmp_path / "runs" / "mine")
    assert sorted(told) == [tmp_path, tmp_path / "runs"], "else an adapter's folder may be gone that the journal names"
    make_folder(tmp_path / "runs" / "mine")
    assert len(told) == 2
    write_text(tmp_path / "adapters" / "hash" / "file", "whole")
    assert set(told[2:]) == {tmp_path, tmp_path / "adapters", tmp_path / "adapters" / "hash"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be read back here")
def test_a_journal_line_is_written_through_before_the_run_goes_on(tmp_path: Path, order: list[str]) -> None:
    journal = Journal(tmp_path)
    journal.step("one", "a", lambda: 1)
    assert json.loads(order[0].removeprefix("sync "))["value"] == 1 and order[1:] == ["sync names"]
    (tmp_path / JOURNAL).write_text((tmp_path / JOURNAL).read_text() + "torn")
    Journal(tmp_path)
    assert order[2:] == order[:1], "what is left of a torn journal is written through too"


def test_names_without_latin_letters_have_different_slugs() -> None:
    assert slug("My Task: 2") == "my-task-2" and slug("") == slug(" ") == "task"
    assert slug("Отзывы") != slug("スパム") and slug("スパム").startswith("task-")


def test_a_name_that_begins_with_a_tilde_and_no_user_is_a_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a") == Path("/home/me/a")
    assert absolute("~$rows.csv") == str(tmp_path / "~$rows.csv")


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000], ids=["torn", "not UTF-8", "too deep"])
def test_json_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "stored.json"
    path.write_bytes(data)
    with pytest.raises(ValueError):
        decode_json(data)
    with pytest.raises(ValueError):
        load_json(path)
    assert known_json(path) is None


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_json_without_a_number(tmp_path: Path, number: str) -> None:
    path = tmp_path / "stored.json"
    path.write_text(f"[{number}]")
    assert len(known_json(path)) == 1
    with pytest.raises(ValueError, match=f"{number} is not a number"):
        load_json(path, finite=True)


def test_json_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stored.json"
    assert known_json(path) is None
    write_json(path, {"name": "Zoë"})
    assert known_json(path) == load_json(path) == {"name": "Zoë"}


def test_a_file_keeps_its_permissions_and_a_link_its_file(tmp_path: Path) -> None:
    private, link = tmp_path / "private", tmp_path / "link"
    private.write_text("before")
    private.chmod(0o600)
    link.symlink_to(private)
    write_text(link, "after")
    assert link.is_symlink() and private.read_text() == "after" and private.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_held_is_told_apart_from_a_place_without_files(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "busy"),
        pytest.raises(BusyError, match="busy"),
        locked(tmp_path / "lock", "busy"),
    ):
        raise AssertionError("locked twice")
    place = Path("/proc/self")
    if place.is_dir():
        with pytest.raises(InputError, match="cannot write"), locked(place / ".lock", "busy"):
            raise AssertionError("a lock file in /proc")
