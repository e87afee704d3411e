"""On a cluster of two nodes jobs give what they give anywhere, also where an actor or a node goes away in the middle.

Takes a package that the test suite does without: ``make test-cluster``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import BrokenSlot, broken, card, killed_always, killed_once, numbers, refused, slow_double

import ray_nodes
from cotune.cli import main
from cotune.errors import CotuneError, InputError
from cotune.executor import Choice, Done, LostError, on_ray, open_executor, run_all
from cotune.executor.doctor import diagnose_executor

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes.nodes(2) as found:
        yield found


def results(done: list[Done]) -> list[Any]:
    return [json.loads(one.read()) for one in done]


def after(count: int, storage: Path, act: Callable[[], None]) -> threading.Thread:
    """Do something once so many results lie in a folder."""

    def wait() -> None:
        patience = time.monotonic() + 60
        while len([*storage.iterdir()]) < count and time.monotonic() < patience:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def storage_of(tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


def test_two_nodes_give_the_same_in_the_same_order(cluster: Any, tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    with open_executor(Choice("ray", cluster.address), storage) as executor:
        assert (executor.slots, executor.threads) == (2, 1)
        done = run_all(executor, numbers(20, slow_double, log=tmp_path / "log"))
    assert results(done) == [2 * number for number in range(20)]
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(int(line.split()[0]) for line in lines) == list(range(20))
    assert len({one.worker for one in done}) == len({line.split()[1] for line in lines}) == 2


def test_errors_of_jobs_come_as_they_are(cluster: Any, tmp_path: Path) -> None:
    with open_executor(Choice("ray", cluster.address, workers=1), storage_of(tmp_path)) as executor:
        with pytest.raises(InputError) as error:
            run_all(executor, numbers(1, refused))
        assert str(error.value) == "rows.csv, line 3: the cell is blank. Fill it."
        with pytest.raises(RuntimeError, match=r"(?s)failed in a worker.*in broken\n.*a slip"):
            run_all(executor, numbers(1, broken))


def test_killed_actors_cost_their_job_one_more_try(cluster: Any, tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    with open_executor(Choice("ray", cluster.address), storage) as executor:
        jobs = numbers(20, killed_once, mark=tmp_path / "mark", log=tmp_path / "log")
        assert results(run_all(executor, jobs)) == [2 * number for number in range(20)]
        assert executor.lost == 1 and (tmp_path / "log").read_text().count("\n") == 20
        # From outside, at any moment.
        slow = numbers(30, slow_double, log=tmp_path / "slow")
        victim = lambda: int((tmp_path / "slow").read_text().split()[1])  # noqa: E731
        killer = after(20 + 4, storage, lambda: os.kill(victim(), signal.SIGKILL))
        assert results(run_all(executor, slow)) == [2 * number for number in range(30)]
        killer.join()
        assert executor.lost == 2


def test_a_job_that_kills_every_actor_is_given_up(cluster: Any, tmp_path: Path) -> None:
    with open_executor(Choice("ray", cluster.address), storage_of(tmp_path)) as executor:
        with pytest.raises(LostError, match="4 workers ended during the same job"):
            run_all(executor, numbers(1, killed_always, log=tmp_path / "log"))
        assert (tmp_path / "log").read_text().count("\n") == 4


def test_a_node_that_goes_away_leaves_its_jobs_to_the_others(cluster: Any, tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    extra = cluster.add_node(**ray_nodes.NODE)
    cluster.wait_for_nodes()
    with open_executor(Choice("ray", cluster.address, workers=3), storage) as executor:
        remover = after(9, storage, lambda: cluster.remove_node(extra, allow_graceful=False))
        done = run_all(executor, numbers(45, slow_double, log=tmp_path / "log"))
        remover.join()
        assert executor.lost == 1
    assert results(done) == [2 * number for number in range(45)]
    # A node may die between a result and the word of it: done again, it is the same.
    assert {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()} == set(range(45))
    assert len({one.key for one in done}) == 45
    patience = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 2 and time.monotonic() < patience:
        time.sleep(0.5)


def test_too_many_workers_and_a_wrong_address_are_told(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(InputError, match=r"--workers: the cluster has 2 CPUs, too few for 3 workers"),
        open_executor(Choice("ray", cluster.address, workers=3), tmp_path),
    ):
        pass
    monkeypatch.setattr(on_ray, "versions", lambda: {"cotune": "9.9", "python": "3.99"})
    with (
        open_executor(Choice("ray", cluster.address, workers=1), tmp_path) as executor,
        pytest.raises(InputError, match=r"a node has cotune .*, and this machine has 9\.9"),
    ):
        run_all(executor, numbers(1))


def test_actors_that_cannot_be_made_are_told_at_once(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "Slot", BrokenSlot)
    with (
        open_executor(Choice("ray", cluster.address, workers=1), tmp_path) as executor,
        pytest.raises(CotuneError, match=r"a worker cannot start: .*No module named 'torch'"),
    ):
        run_all(executor, numbers(1))


def test_a_worker_takes_a_gpu_where_there_is_one(cluster: Any, tmp_path: Path) -> None:
    """Ray counts GPUs by what a node says of itself, so that the placement can be tested without one."""
    with (
        pytest.raises(InputError, match="the model runs on a GPU here, and the cluster has none"),
        open_executor(Choice("ray", cluster.address), tmp_path, gpus=True),
    ):
        pass
    extra = cluster.add_node(**ray_nodes.NODE, num_gpus=1)
    cluster.wait_for_nodes()
    try:
        with open_executor(Choice("ray", cluster.address), storage_of(tmp_path), gpus=True) as executor:
            assert executor.slots == 1
            assert results(run_all(executor, numbers(2, card))) == ["0", "0"]
    finally:
        cluster.remove_node(extra)


def test_the_doctor_says_what_the_cluster_has(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checks = diagnose_executor(Choice("ray", cluster.address))
    assert [check.name for check in checks] == ["ray", "node", "node", "workers", "folder"]
    assert {check.status for check in checks} == {"ok"} and not [*tmp_path.iterdir()]
    assert "1 CPU" in checks[1].finding and "cotune" in checks[1].finding and checks[3].finding == "2 workers, 1 CPU each"
    assert "accessed by all nodes" in checks[4].finding
    assert diagnose_executor(Choice("ray", cluster.address, workers=5))[3].status == "fail"
    *_, storage = diagnose_executor(Choice("ray", cluster.address, storage=f"local://{tmp_path}/store"))
    assert (storage.name, storage.status) == ("storage", "ok") and not [*(tmp_path / "store").iterdir()]
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(SystemExit):
        main(["doctor", "--executor", f"ray:{cluster.address}", "--workers", "5", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "fail" and "2 CPUs, too few for 5 workers" in [check["finding"] for check in told["checks"]]
