"""A run whose work processes do: it decides, records and ships what a run in one process does, whoever dies meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows
from worker_runs import account, run, same_as

import object_store
from cotune.cache import cache_folder
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.backends.base import Opening
from cotune.cycle.backends.local import LocalBackend
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.kept import read_config
from cotune.cycle.probe_search.fit_task import FitTask
from cotune.cycle.progress import Quiet
from cotune.cycle.run import run as run_cycle
from cotune.cycle.workers import fits
from cotune.cycle.workers.exchange import run_storage
from cotune.cycle.workers.fits import fit_probe
from cotune.cycle.workers.opening import check_engine
from cotune.cycle.workers.states import embed_pass
from cotune.cycle.workers.tuning import Deadline, PendingTuning, since_making, tune_job
from cotune.cycle.workers.worker import RUN_ENGINE, WorkerMemoryError, load_worker, with_less_memory
from cotune.errors import InputError
from cotune.executor import Choice, Job, LostError
from cotune.executor.job import SMALLER, WAITED
from cotune.executor.slots import SlotExecutor
from cotune.executor.tensors import unpacked
from cotune.files import canonical_json
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.model.engine.state_store import as_half
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.tune.settings import WindowSettings
from cotune.tune.window import StartHead
from cotune.tune.window_task import WindowTask
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9
ONE, TWO = (("--executor", "processes", "--workers", str(count)) for count in (1, 2))


def test_two_processes_give_what_one_does_and_do_not_know_its_folder(bench: Bench, alone: Path, tmp_path: Path) -> None:
    out, seen, store = tmp_path / "run", tmp_path / "seen", tmp_path / "store"
    assert run(bench, seen, *ONE, at=("job", str(seen), 1)).code == KILLED, "without a storage jobs are told the folder"
    before = {*cache_folder("workers").iterdir()}
    ended = run(bench, out, *TWO, "--storage", f"local://{store}", at=("job", str(out), 1))
    assert ended.code == 0, f"a job was told the folder, or failed: {ended.stderr}"
    same_as(alone, out)
    # Nothing is left, neither there nor on this machine.
    assert not [*store.iterdir()] and {*cache_folder("workers").iterdir()} == before
    found = account(out)
    assert found["slots"] == 2 and found["lost"] == 0 and found["unlike"] == ""
    workers = found["workers"].values()
    assert len(workers) == 2 and all(one["jobs"] > 5 and one["seconds"] > 0 for one in workers)
    assert {one["engine"]["dtype"] for one in workers} == {"float32"}
    # All that was embedded, tuned and tested was so by workers, and every record says what they compute with.
    events = journal_of(out)
    by = [event["value"].get("by") for event in events if event["kind"] in ("embed", "train")]
    assert by and all(one and one["dtype"] == "float32" and one["processor"] for one in by)
    assert max(one["workers"] for one in by) == 2


def test_killed_and_gone_on_with_and_without_workers(bench: Bench, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed = run(bench, out, *ONE, at=("line", "train", 2))
    assert killed.code == KILLED, f"the moment never came: {killed.stderr}"
    # The account is written every few seconds, after the first job at once.
    known = json.loads((out / "jobs" / "workers.json").read_text(encoding="utf-8"))["jobs"]
    assert known >= 1
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    same_as(alone, out)
    # What the workers did before is told, by a session that had none.
    assert account(out)["jobs"] == known


def test_a_killed_worker_costs_nothing_but_time(bench: Bench, alone: Path, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", *ONE, at=("line", "embed", 3), signal="WORKER")
    assert ended.code == 0, ended.stderr
    same_as(alone, tmp_path / "run")
    found = account(tmp_path / "run")
    assert found["lost"] == 1 and len(found["workers"]) == 2


@pytest.fixture
def url() -> Iterator[str]:
    """Where an object store takes what a run's workers do."""
    with object_store.bucket() as bucket:
        yield f"{bucket}/runs"


def test_an_object_store_is_all_that_run_and_workers_share(
    bench: Bench, alone: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, jobs = tmp_path / "run", list[Job]()
    before = {*cache_folder("workers").iterdir()}
    killed = run(bench, out, *ONE, "--storage", url, at=("line", "embed", 4))
    assert killed.code == KILLED, f"the moment never came: {killed.stderr}"
    assert {path.name for path in (out / "jobs").iterdir()} <= {"storage.json", "workers.json"}
    storage = run_storage(url, out)
    done = storage.names()
    assert sum("." not in name for name in done) > 2

    def submit(self: SlotExecutor, job: Job) -> Any:
        jobs.append(job)
        return submitted(self, job)

    submitted = SlotExecutor.submit
    monkeypatch.setattr(SlotExecutor, "submit", submit)
    run_cycle(read_config(out / "config.json")[0], out, executor=Choice("processes", workers=1, storage=url))
    same_as(alone, out)
    works = Counter(job.work for job in jobs)
    assert all(works[work] for work in (embed_pass, fit_probe, tune_job)) and {job.given["adapter"] for job in jobs} - {BASE}
    assert not [job for job in jobs if str(out) in canonical_json([job.given, job.places])], "no job knows the run's folder"
    again = {job.key for job in jobs if job.work is not load_worker} & done
    assert not again, "what was done before is not done again"
    assert storage.names() == set() and {*cache_folder("workers").iterdir()} == before


def test_a_run_that_is_refused_leaves_nothing_in_the_storage(bench: Bench, tmp_path: Path) -> None:
    refused = run(bench, tmp_path / "run", *ONE, "--storage", f"local://{tmp_path}/store", budget="1ktok")
    assert refused.code == 2, refused.stderr
    assert not (tmp_path / "run").exists() and not [*(tmp_path / "store").iterdir()]
    (tmp_path / "file").touch()
    refused = run(bench, tmp_path / "run", *ONE, "--storage", f"local://{tmp_path}/file/store")
    assert refused.code == 2 and f"could not write to the storage local://{tmp_path}/file/store" in refused.stderr
    assert not (tmp_path / "run").exists()
    refused = run(bench, tmp_path / "run", *ONE, "--storage", "s3://key:secret@bucket/path")
    assert refused.code == 2 and "contains credentials" in refused.stderr and "secret" not in refused.stderr + refused.stdout


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("tune.readout=words",), "read by their words"),
        (("output.type=text",), "support only labels, not answers of type text"),
    ],
)
def test_what_cannot_be_spread_is_refused(bench: Bench, tmp_path: Path, settings: tuple[str, ...], why: str) -> None:
    refused = bench.run(tmp_path / "run", *settings, *ONE)
    assert refused.code == 2 and why in refused.stderr and "--executor" in refused.stderr, refused.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_on_plain_batches_gets_no_workers() -> None:
    check_engine(tiny_local())
    with pytest.raises(InputError, match="does not support this model"):
        check_engine(tiny_local("gemma2"))


@pytest.mark.parametrize("several", [False, True])
def test_a_fit_is_the_same_after_its_way_through_a_file(several: bool) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(40) % 2
    # As one label, or as two fields of which the second is noise.
    truth, sizes = (np.stack([label, 2 + rng.integers(0, 2, 40)], axis=1), (2, 2)) if several else (label, ())
    states = (rng.normal(size=(3, 40, 8)) + label[None, :, None]).astype(np.float16)
    task = FitTask(truth, 4 if several else 2, sizes, (2, 4, 6), None, None, 2, (6,), 1, 0)
    found = FitTask.from_json(json.loads(json.dumps(task.to_json()))).fit(tiny_local(), states)
    arrays, about = fits._packed(found)
    again = fits._unpacked(arrays, json.loads(json.dumps(about)))
    same = ("layer", "temperature", "ridge", "sizes")
    assert all(getattr(again, name) == getattr(found, name) for name in same) and found.sizes == sizes
    for one, other in zip(again.by_layer, found.by_layer, strict=True):
        assert (one.layer, one.strength, one.word_scale) == (other.layer, other.strength, other.word_scale)
        assert all((getattr(one, name) == getattr(other, name)).all() for name in ("losses", "correct", "log_probs"))


def test_memory_that_runs_out_twice_is_told() -> None:
    model, asked = tiny_local(), list[bool]()

    def once(smaller: bool) -> str:
        asked.append(smaller)
        if not smaller:
            raise RuntimeError("not enough memory: you tried to allocate 8 bytes")
        return "done"

    def always(smaller: bool) -> str:
        raise MemoryError

    assert with_less_memory(model, {}, once) == "done" and asked == [False, True]
    assert with_less_memory(model, {"smaller": True}, once) == "done" and asked == [False, True, True]
    with pytest.raises(WorkerMemoryError, match=r"half the tokens.*fewer --workers"):
        with_less_memory(model, {}, always)
    with pytest.raises(ZeroDivisionError):
        with_less_memory(model, {}, lambda smaller: str(1 / 0))


def test_a_pass_in_smaller_pieces_gives_the_same_states(bench: Bench, tmp_path: Path) -> None:
    model = LocalModel.load(bench.model, settings=EngineSettings(threads=1))
    engine = {name: getattr(model.settings, name) for name in EngineSettings.__dataclass_fields__}
    rows, starts = [[9, 8, 7], [9, 8, 7, 6], [5, 4, 3, 2, 1]], [4, 4, 5]
    given = {"model": model.fingerprint, RUN_ENGINE: engine, "adapter": BASE, "prefix": [1, 2, 3], "rows": rows}
    given |= {"reads": starts, "layers": [1, 2]}
    places = {"model": str(bench.model), "run": str(tmp_path)}
    whole, pieces = (unpacked(embed_pass(given, {**places, **more}))[0]["states"] for more in ({}, {SMALLER: True}))
    direct = model.layer_states([[1, 2, 3, *own] for own in rows], [1, 2], reads=starts)
    assert (whole == as_half(direct)).all() and whole.shape == (2, 3, 64)
    assert np.allclose(whole, pieces, atol=2e-3)
    with pytest.raises(InputError, match="different model under this name"):
        embed_pass({**given, "model": "other"}, places)


class Short:
    """Workers that run out of memory in every job."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def keep(self, data: bytes) -> str:
        self.data = data
        return "name"

    def job(self, work: Any, given: Any, **more: Any) -> str:
        return "job"

    def result(self, job: str) -> Any:
        raise self.error


def test_a_tuning_without_memory_is_a_failed_trial_and_one_without_workers_ends_the_run() -> None:
    head = StartHead(
        *(np.arange(size, dtype=np.float64).reshape(shape) for size, shape in ((6, (2, 3)), (2, 2), (3, 3), (3, 3)))
    )
    settings = WindowSettings(lora=LoraSettings(rank=4, layers=(1,)), micro_tokens=100)
    task = WindowTask([(1, 2), (3, 4, 5)], [1, 1], [0, 1], ("a", "b"), 0, 2, head, settings, 7, 3, BASE)
    short: Any = Short(WorkerMemoryError("no memory: give fewer --workers"))
    ended = PendingTuning(short, task, None).result()
    assert ended["failed"] == "no memory: give fewer --workers" and (ended["steps"], ended["new_tokens"], ended["rows"]) == (
        0,
        0,
        2,
    )
    again = WindowTask.from_bytes(short.data)
    assert again.settings == settings and again.labels == ("a", "b") and again.to_bytes() == short.data
    # Workers that were lost in this job alone leave the others to be done; without any worker the run cannot go on.
    short.error = LostError("4 workers ended during the same job", of_job=True)
    assert "4 workers" in PendingTuning(short, task, None).result()["failed"]
    short.error = LostError("no worker is left")
    with pytest.raises(LostError, match="no worker"):
        PendingTuning(short, task, None).result()


def test_a_deadline_counts_the_wait_and_does_not_move_with_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    # Of 60 seconds 20 were spent when the job was made; it waited 5, and what follows needs 10.
    deadline = Deadline(keep=10.0, amount=60.0, train_rate=1.0, clock=20.0, guess=1.0)
    spent = deadline.spent(1000.0, since_making({WAITED: 5.0}))
    assert spent is not None and not spent()
    for day in (-86_400, 86_400):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + day)
        assert not spent()
    now[0] += 20.0
    assert not spent()
    now[0] += 6.0
    assert spent()
    assert all(isinstance(value, float) for value in json.loads(json.dumps(asdict(deadline))).values())


def test_a_run_that_is_resumed_alone_plans_with_the_workers_of_its_first_session(bench: Bench, tmp_path: Path) -> None:
    """Else its pool and its sample of rows would be others than those in the journal."""
    task = Task.from_rows(labelled_rows(60), input="text", output="label")
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "5m", "engine": {"dtype": "float32", "threads": 1}}
    config = config_in_memory(name="workers", input=["text"], output="label", **settings)

    def opened() -> CostModel:
        with ExitStack() as resources:
            opening = Opening(config, task, seed_prompt(task), Journal(tmp_path), tmp_path, Quiet(), resources)
            return LocalBackend().open(opening).spending.costs

    alone = opened()
    assert alone.slots == 1 and [event["kind"] for event in Journal(tmp_path).events] == ["engine"]
    journal = Journal(tmp_path)
    journal.step("engine", [config.engine.model_dump(mode="json"), config.model_identity], dict)
    journal.step("workers", [], lambda: {"slots": 8})
    resumed = opened()
    assert resumed.slots == 8 and resumed.score_rate == pytest.approx(8 * alone.score_rate)
