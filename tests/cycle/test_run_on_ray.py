"""``cotune run --executor ray`` ends as a run in one process does, whatever of the cluster or of the run goes away meanwhile.

Takes a package that the test suite does without: ``make test-cluster``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import Commands, Ended, journal_of
from worker_runs import account, run, same_as

import ray_nodes

if TYPE_CHECKING:
    from conftest import Bench

ray = pytest.importorskip("ray")
KILLED = -9
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes.nodes(2) as found:
        yield found


def on(cluster: Any, workers: int = 2) -> tuple[str, ...]:
    return ("--executor", f"ray:{cluster.address}", "--workers", str(workers))


def once(there: Callable[[], object], act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something else is there."""

    def wait() -> None:
        patience = time.monotonic() + PATIENCE_S
        while not there() and time.monotonic() < patience:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_worker(out: Path) -> None:
    """Kill one of a run's workers, all of which are processes of this machine."""
    names = json.loads((out / "jobs" / "workers.json").read_bytes())["workers"]
    os.kill(int(min(names).rpartition(":")[2]), signal.SIGKILL)


def embedding(out: Path) -> Callable[[], object]:
    """Whether a race is under way, and it is known who works."""

    def there() -> object:
        with contextlib.suppress(OSError, ValueError):
            kinds = [event["kind"] for event in journal_of(out)]
            return kinds.count("embed") > 2 and (out / "jobs" / "workers.json").is_file()
        return False

    return there


def tuning(out: Path) -> Callable[[], object]:
    """Whether a window is being tuned: that is planned, and no result recorded."""

    def there() -> object:
        with contextlib.suppress(OSError, ValueError):
            kinds = [event["kind"] for event in journal_of(out)]
            return "plan" in kinds and "train" not in kinds and (out / "jobs" / "workers.json").is_file()
        return False

    return there


def test_two_nodes_give_what_one_process_does(cluster: Any, bench: Bench, alone: Path, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", *on(cluster))
    assert ended.code == 0, ended.stderr
    same_as(alone, tmp_path / "run")
    found = account(tmp_path / "run")
    assert found["slots"] == 2 and found["lost"] == 0 and len(found["workers"]) == 2


def test_workers_that_share_no_folder_with_the_run(cluster: Any, bench: Bench, alone: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "run", tmp_path / "store"
    killed = run(bench, out, *on(cluster), "--storage", f"local://{store}", at=("line", "train", 2))
    assert killed.code == KILLED, killed.stderr
    assert not (out / "checkpoints").exists(), "workers tune in folders of their nodes"
    assert {path.suffix for path in store.rglob("*") if path.is_file()} >= {"", ".given", ".states", ".adapter"}
    ended = run(bench, out, *on(cluster), "--storage", f"local://{store}")
    assert ended.code == 0, ended.stderr
    same_as(alone, out)
    assert not [*store.iterdir()]


@pytest.mark.parametrize("moment", [embedding, tuning])
def test_a_killed_worker_costs_nothing_but_time(
    cluster: Any, bench: Bench, alone: Path, tmp_path: Path, moment: Callable[[Path], Callable[[], object]]
) -> None:
    out = tmp_path / "run"
    killer = once(moment(out), lambda: kill_worker(out))
    ended = run(bench, out, *on(cluster))
    killer.join()
    assert ended.code == 0, ended.stderr
    same_as(alone, out)
    assert account(out)["lost"] == 1


def test_a_node_that_goes_away_leaves_its_work_to_the_others(cluster: Any, bench: Bench, alone: Path, tmp_path: Path) -> None:
    out, extra = tmp_path / "run", cluster.add_node(**ray_nodes.NODE)
    cluster.wait_for_nodes()
    remover = once(embedding(out), lambda: cluster.remove_node(extra, allow_graceful=False))
    ended = run(bench, out, *on(cluster, 3))
    remover.join()
    assert ended.code == 0, ended.stderr
    same_as(alone, out)
    assert account(out)["lost"] == 1


def test_a_driver_that_is_killed_at_five_moments(cluster: Any, bench: Bench, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for at in (
        ("line", "start", 1),
        ("line", "embed", 4),
        ("line", "plan", 1),
        ("line", "train", 2),
        ("line", "arm", 2),
    ):
        killed = run(bench, out, *on(cluster), at=at)
        assert killed.code == KILLED, f"the moment {at} never came: {killed.stderr}"
    ended = run(bench, out, *on(cluster))
    assert ended.code == 0, ended.stderr
    same_as(alone, out)


def test_a_full_object_store_is_no_hindrance(cluster: Any, bench: Bench, alone: Path, tmp_path: Path) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        held = [ray.put(os.urandom(10 << 20)) for _ in range(20)]
        ended = run(bench, tmp_path / "run", *on(cluster))
        assert ended.code == 0, ended.stderr
        del held
    finally:
        ray.shutdown()
    same_as(alone, tmp_path / "run")


def test_a_budget_of_time_is_kept_and_a_killed_driver_goes_on(cluster: Any, bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # The deadline of a tuning goes to the worker, whose clock is another one.
    killed = run(bench, out, *on(cluster), budget="90s", at=("line", "train", 2))
    assert killed.code == KILLED, killed.stderr
    ended = run(bench, out, *on(cluster), budget="90s")
    assert ended.code == 0, ended.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cost"]["wall_s"] < 90 and summary["prompts_tuned"] >= 1
    assert {value["steps"] for value in (event["value"] for event in journal_of(out) if event["kind"] == "train")} != {0}


def test_four_nodes(bench: Bench, alone: Path, tmp_path: Path) -> None:
    with ray_nodes.nodes(4) as cluster:
        ended = run(bench, tmp_path / "run", *on(cluster, 4))
        assert ended.code == 0, ended.stderr
    same_as(alone, tmp_path / "run")
    assert len(account(tmp_path / "run")["workers"]) == 4


class Direct(Commands):
    """Runs each command as a process of its own, which ends as one on a command line does."""

    def __init__(self) -> None:
        pass

    def run(self, *arguments: str, **named: Any) -> Ended:
        done = subprocess.run([sys.executable, "-m", "cotune.cli", *arguments], capture_output=True, text=True, check=False)
        return Ended(done.returncode, 0, done.stdout, done.stderr)


def test_a_lost_head_ends_the_command_and_the_next_cluster_goes_on(bench: Bench, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with ray_nodes.nodes(1) as cluster:
        begun: list[float] = []

        def lose() -> None:
            begun.append(time.monotonic())
            cluster.head_node.kill_gcs_server()
            # Workers that are there go on without a head, and would get this short run to its end.
            kill_worker(out)

        loser = once(embedding(out), lose)
        ended = run(replace(bench, commands=Direct()), out, *on(cluster, 1))
        took = time.monotonic() - begun[0]
        loser.join()
    assert ended.code == 1 and "head" in ended.stderr and "run the same command again" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr and took < 58, took
    with ray_nodes.nodes(1) as cluster:
        ended = run(bench, out, *on(cluster, 1))
        assert ended.code == 0, ended.stderr
    same_as(alone, out)
