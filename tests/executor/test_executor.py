"""Whatever runs them and whatever happens to it, jobs give the same results in the same order, each counted once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import broken, double, killed_always, killed_once, numbers, refused, slow_double, waited

from cotune.cli.workers import Throughput
from cotune.errors import BusyError, InputError
from cotune.executor import Choice, Done, Executor, Job, LostError, Storage, open_executor, part_folder, run_all
from cotune.executor.base import WorkerLost
from cotune.executor.choice import slots_of
from cotune.executor.job import SMALLER, perform
from cotune.executor.on_ray import cpus_each, slots_on
from cotune.executor.slots import MOST_LOSSES, SlotExecutor

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    with open_executor(Choice("processes", workers=2), tmp_path_factory.mktemp("storage")) as executor:
        yield executor


def results(done: list[Done]) -> list[Any]:
    return [json.loads(one.read()) for one in done]


@settings(max_examples=40)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_a_job_is_named_by_what_it_is_given_alone(one: dict[str, Any], other: dict[str, Any]) -> None:
    job = Job(double, one, {"folder": "here"}, rows=3)
    assert job.key == Job(double, dict(reversed(one.items())), {"folder": "there"}).key
    assert (job.key == Job(double, other).key) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
    assert job.key != Job(slow_double, one).key
    assert len(job.key) == 40 and job.key.isalnum()


def test_a_function_that_no_other_process_finds_is_no_job() -> None:
    with pytest.raises(ValueError, match="not a module-level function"):
        Job(lambda given, places: b"", {})


def test_doing_a_job_twice_does_no_harm(tmp_path: Path) -> None:
    job = numbers(4, log=tmp_path / "log")[3]
    (tmp_path / "storage").mkdir()
    first, second = (perform(job, tmp_path / "storage") for _ in range(2))
    assert not first.earlier and second.earlier and first.where == second.where
    assert first.read() == b"6" and (tmp_path / "log").read_text().count("\n") == 1
    assert [path.name for path in (tmp_path / "storage").iterdir()] == [job.key]


def test_a_worker_without_the_folder_makes_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot access this folder"):
        perform(numbers(1)[0], tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_local_and_processes_give_the_same_in_the_same_order(tmp_path: Path, processes: Executor) -> None:
    told: list[str] = []
    jobs = numbers(9, log=tmp_path / "log")
    with open_executor(Choice("local"), tmp_path) as local:
        assert results(run_all(local, jobs)) == [2 * number for number in range(9)]
    (tmp_path / "log").unlink()
    done = run_all(processes, [*jobs, jobs[2]], lambda one: told.append(one.key))
    assert results(done) == [*(2 * number for number in range(9)), 4]
    assert sorted(told) == sorted(job.key for job in [*jobs, jobs[2]])
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(int(line.split()[0]) for line in lines) == list(range(9))
    assert {line.split()[1] for line in lines}.isdisjoint({str(os.getpid())})
    again = run_all(processes, jobs)
    assert all(one.earlier for one in again) and len((tmp_path / "log").read_text().splitlines()) == 9


def test_a_killed_worker_costs_its_job_one_more_try(tmp_path: Path, processes: Executor) -> None:
    before = processes.lost
    jobs = numbers(6, killed_once, mark=tmp_path / "mark", log=tmp_path / "log")
    assert results(run_all(processes, jobs)) == [2 * number for number in range(6)]
    assert processes.lost == before + 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 6 and (tmp_path / "mark").read_text() not in {line.split()[1] for line in lines}


def test_a_job_that_kills_every_worker_is_given_up(tmp_path: Path, processes: Executor) -> None:
    with pytest.raises(LostError, match=r"4 workers ended during the same job .*signal 9.*fewer --workers"):
        run_all(processes, [*numbers(1, killed_always, log=tmp_path / "log"), *numbers(4)])
    assert (tmp_path / "log").read_text().count("\n") == MOST_LOSSES + 1
    assert results(run_all(processes, numbers(3))) == [0, 2, 4], "the others are well"


def test_errors_of_jobs_come_as_they_are(processes: Executor) -> None:
    with pytest.raises(InputError) as error:
        run_all(processes, numbers(1, refused))
    assert str(error.value) == "rows.csv, line 3: the cell is blank. Fill it."
    assert (error.value.what, error.value.where, error.value.hint) == ("the cell is blank", "rows.csv, line 3", "Fill it.")
    with pytest.raises(RuntimeError, match=r"(?s)failed in a worker.*in broken\n.*a slip"):
        run_all(processes, numbers(1, broken))


class FakeWorker:
    """A worker whose node goes away after some jobs, for good."""

    def __init__(self, most: int) -> None:
        self.name, self.most, self.gone = "fake", most, False

    def start(self) -> None:
        if self.gone:
            raise WorkerLost("the node is gone")

    def perform(self, job: Job, storage: Storage) -> Done:
        if not self.most:
            self.gone = True
            raise WorkerLost("the node is gone")
        self.most -= 1
        return perform(job, storage)

    def stop(self) -> None:
        return None


def test_slots_that_do_not_come_back_leave_their_jobs_to_the_others(tmp_path: Path) -> None:
    executor = SlotExecutor([FakeWorker(2), FakeWorker(3), FakeWorker(99)], tmp_path, 1)
    assert results(run_all(executor, numbers(30))) == [2 * number for number in range(30)]
    executor.close()
    last = SlotExecutor([FakeWorker(2), FakeWorker(1)], tmp_path / "b", 1)
    (tmp_path / "b").mkdir()
    with pytest.raises(LostError, match=r"no worker is left \(the node is gone\)"):
        run_all(last, numbers(30))
    assert len([*(tmp_path / "b").iterdir()]) == 3
    last.close()


def test_what_nobody_has_begun_is_taken_back(tmp_path: Path) -> None:
    with open_executor(Choice("processes", workers=1), tmp_path) as executor:
        first, second, third = numbers(3, slow_double, log=tmp_path / "log")
        futures = [executor.submit(job) for job in (first, second, third)]
        while not (tmp_path / "log").is_file():
            time.sleep(0.01)
        # The first is done or nearly so; of the others one may have been begun, and the last not.
        assert executor.cancel(third) and futures[2].cancelled()
        assert not executor.cancel(first)
        assert json.loads(futures[1].result(timeout=30).read()) == 2
        # What was taken back, or is done, is new where it is asked for again.
        assert executor.submit(third) is not futures[2]
        assert json.loads(executor.submit(third).result(timeout=30).read()) == 4
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_job_knows_how_long_it_has_waited_for_its_worker(tmp_path: Path) -> None:
    executor = SlotExecutor([FakeWorker(9)], tmp_path, 1)
    seen = [json.loads(one.read()) for one in run_all(executor, [Job(waited, {"number": number}) for number in range(2)])]
    executor.close()
    assert 0 <= seen[0] < 0.2 <= seen[1] < 30
    with open_executor(Choice("local"), tmp_path) as local:
        assert results(run_all(local, [Job(waited, {"number": 2})])) == [0.0]


class ShortOfMemory(FakeWorker):
    """A worker that is lost until its job comes in smaller pieces."""

    def __init__(self, *, told: bool) -> None:
        super().__init__(99)
        self.told, self.losses = told, 0

    def perform(self, job: Job, storage: Storage) -> Done:
        if not job.places.get(SMALLER):
            self.losses += 1
            raise WorkerLost("it was killed", memory=self.told)
        return super().perform(job, storage)


@pytest.mark.parametrize(("told", "losses"), [(True, 1), (False, 2)])
def test_a_job_that_takes_too_much_memory_comes_again_in_smaller_pieces(tmp_path: Path, told: bool, losses: int) -> None:
    worker = ShortOfMemory(told=told)
    executor = SlotExecutor([worker], tmp_path, 1)
    assert results(run_all(executor, numbers(1))) == [0]
    assert worker.losses == executor.lost == losses and executor.losses == {"fake": losses}
    executor.close()


class LostAfterStoring(FakeWorker):
    """A worker that is lost once, when its result is stored and nobody knows it."""

    def perform(self, job: Job, storage: Storage) -> Done:
        done = super().perform(job, storage)
        if not self.gone:
            self.gone = True
            raise WorkerLost("it was killed")
        return done

    def start(self) -> None:
        return None


def test_what_a_lost_worker_stored_was_done_by_this_command(tmp_path: Path) -> None:
    executor = SlotExecutor([LostAfterStoring(9)], tmp_path, 1)
    jobs, seen = numbers(3), Throughput(3)
    done = run_all(executor, jobs, seen.saw)
    assert executor.lost == 1 and results(done) == [0, 2, 4]
    assert not any(one.earlier for one in done) and seen.earlier == 0 and "" not in seen.rates
    executor.close()
    again = SlotExecutor([FakeWorker(9)], tmp_path, 1)
    assert all(one.earlier for one in run_all(again, jobs))
    again.close()


class Silent(FakeWorker):
    """A worker that nothing is heard of any more."""

    def perform(self, job: Job, storage: Storage) -> Done:
        time.sleep(60)
        raise AssertionError


def test_jobs_are_given_up_where_nothing_is_heard_of_workers(tmp_path: Path) -> None:
    executor = SlotExecutor([Silent(9), Silent(9)], tmp_path, 1)
    futures = [executor.submit(job) for job in numbers(3)]
    time.sleep(0.2)
    executor.abandon(LostError("the head is gone"))
    assert {str(future.exception(timeout=5)) for future in futures} == {"the head is gone"}


def test_closing_ends_workers_that_are_busy(tmp_path: Path) -> None:
    with open_executor(Choice("processes", workers=1), tmp_path) as executor:
        # Two minutes of work.
        futures = [executor.submit(job) for job in numbers(600, slow_double)]
        futures[0].result(timeout=120)
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    assert all(future.done() for future in futures[:1]) and isinstance(futures[-1].exception(timeout=60), LostError)
    with pytest.raises(LostError, match="was closed"):
        executor.submit(numbers(601)[600]).result(timeout=60)


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "drive.py"
    script.write_text(
        "from pathlib import Path\n"
        "from jobs import double, numbers\n"
        "from cotune.executor.processes import ProcessWorker\n"
        "import sys, time\n"
        "if __name__ == '__main__':\n"
        "    worker = ProcessWorker(1)\n"
        "    worker.start()\n"
        "    worker.perform(numbers(1)[0], Path(sys.argv[1]))\n"
        "    print(worker.name.partition(':')[2], flush=True)\n"
        "    time.sleep(600)\n",
        encoding="utf-8",
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=paths, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        worker = int(driver.stdout.readline())
        os.kill(worker, 0)
        driver.kill()
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        try:
            os.kill(worker, 0)
            # In a container nobody may be there to take leave of it.
            if "Z" in Path(f"/proc/{worker}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]:
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_idle_workers_end_by_themselves(tmp_path: Path) -> None:
    script = tmp_path / "drive.py"
    script.write_text(
        "from pathlib import Path\n"
        "from jobs import lock_kept, numbers\n"
        "from cotune.executor import Choice, open_executor\n"
        "import sys\n"
        "if __name__ == '__main__':\n"
        "    with open_executor(Choice('processes', workers=2), Path(sys.argv[1])) as executor:\n"
        "        for future in [executor.submit(job) for job in numbers(4, lock_kept)]:\n"
        "            future.result()\n",
        encoding="utf-8",
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ended = subprocess.run([sys.executable, str(script), str(tmp_path)], env=paths, capture_output=True, text=True, timeout=200)
    # Python tells of locks that a process which was killed has left.
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("executor", "workers", "said"),
    [
        ("dask", None, "--executor: unknown executor 'dask'. Use local, processes, ray"),
        ("processes:4", None, "unknown executor 'processes:4'"),
        ("ray:", None, "no address after the colon"),
        ("processes", 0, "--workers: there must be at least 1 worker, not 0"),
        ("local", 2, "the executor local has one worker, not 2. Use --executor processes --workers 2"),
    ],
)
def test_what_no_executor_is_called(executor: str, workers: int | None, said: str) -> None:
    with pytest.raises(InputError) as error:
        Choice.parse(executor, workers)
    assert said in str(error.value)


def test_executors_by_name() -> None:
    assert Choice.parse("processes", 3) == Choice("processes", "", 3)
    assert Choice.parse("ray:ray://head:10001") == Choice("ray", "ray://head:10001")
    assert Choice.parse(" ray ") == Choice("ray")


@pytest.mark.parametrize(
    ("nodes", "workers", "each"), [([2, 2], 2, 2), ([3, 3], 4, 1), ([8, 2], 3, 2), ([1, 1], 3, 0), ([], 1, 0), ([64], 1, 64)]
)
def test_workers_take_what_the_nodes_have(nodes: list[int], workers: int, each: int) -> None:
    assert cpus_each(nodes, workers) == each


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "slots"),
    [
        # CPUs, GPUs and GiB of memory of each node; number of workers and CPUs of each.
        ([(64, 0, 8)], 0, False, (4, 16)),
        ([(64, 0, 4), (4, 0, 64)], 0, False, (6, 1)),
        ([(8, 0, 64)], 3, False, (3, 2)),
        ([(64, 1, 64), (4, 3, 64), (96, 0, 512)], 0, True, (4, 1)),
        ([(64, 1, 64), (96, 0, 512)], 0, True, (1, 64)),
        ([(16, 2, 64)], 3, True, (3, 5)),
        ([(0, 2, 64)], 0, True, (0, 0)),
        ([(16, 1, 64), (0, 3, 64)], 2, True, (2, 8)),
    ],
)
def test_slots_fit_on_the_processors_the_memory_and_the_gpus_of_each_node(
    nodes: list[tuple[int, int, int]], workers: int, gpus: bool, slots: tuple[int, int]
) -> None:
    resources = [{"CPU": cpus, "GPU": cards, "memory": gib << 30} for cpus, cards, gib in nodes]
    assert slots_on(resources, workers, gpus=gpus)[:2] == slots


def test_memory_bounds_the_number_of_workers() -> None:
    assert [slots_of(64, gib << 30) for gib in (0, 3, 16, 512)] == [1, 1, 8, 64]


def test_the_folder_of_chunks_stays_where_something_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt), part_folder(out):
        raise KeyboardInterrupt
    assert not [*tmp_path.iterdir()]
    with pytest.raises(KeyboardInterrupt), part_folder(out) as folder:
        perform(numbers(1)[0], folder)
        with pytest.raises(BusyError, match="another command is writing"), part_folder(out):
            pass
        raise KeyboardInterrupt
    remove, busy = shutil.rmtree, []

    def removed(place: Path, **named: Any) -> None:
        with pytest.raises(BusyError), part_folder(out):
            pass
        busy.append(place)
        remove(place, **named)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", removed)
        with part_folder(out) as folder:
            assert perform(numbers(1)[0], folder).earlier
    assert not folder.exists() and busy == [folder]
    folder.mkdir()
    (folder / ".lock").touch()
    with part_folder(out):
        pass
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(InputError, match="it contains something else"), part_folder(out):
        pass


def test_pace_counts_what_was_done_now(tmp_path: Path) -> None:
    clock = [0.0]
    seen = Throughput(100, lambda: clock[0])
    assert seen.left is None
    seen.saw(Done("a", tmp_path, 20, earlier=True))
    clock[0] = 4.0
    seen.saw(Done("b", tmp_path, 20, "one:1", 4.0))
    seen.saw(Done("c", tmp_path, 20, "two:2", 2.0))
    assert seen.left == pytest.approx(4.0)
    assert [*seen.rates.items()] == [("two:2", 10.0), ("one:1", 5.0)]
    assert (seen.done, seen.earlier) == (60, 20)


def test_results_are_waited_for_from_any_thread(tmp_path: Path, processes: Executor) -> None:
    found: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: found.append(results(run_all(processes, numbers(20))))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[2 * number for number in range(20)]] * 3
