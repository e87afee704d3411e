"""A second signal at any stage, and runs that are killed at random in one cache."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundles import Bench
from cycle_runs import SETTINGS, journal_of, labelled_rows, summary_of, without_times, write_csv
from servers import process, texts

from tiny import save_tiny

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("COTUNE_SOAK_SEED", "0"))


def run_command(folder: Path, out: Path, seed: int) -> list[str]:
    columns = ["--input", "text", "--output", "label", "--model", str(folder / "model"), "--budget", "30ktok"]
    given = [str(folder / "rows.csv"), *columns, "--seed", str(seed), "--out", str(out), *SETTINGS]
    return [sys.executable, "-m", "cotune.cli", "run", *given, "limit.test=30", "limit.train=80"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("signals")
    save_tiny(found / "model")
    write_csv(found / "rows.csv", labelled_rows())
    return found


def started(command: Sequence[str], cache: Path) -> subprocess.Popen[str]:
    cache.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COTUNE_CACHE": str(cache)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_two_runs_killed_at_random_in_one_cache_end_as_if_alone(folder: Path, tmp_path: Path) -> None:
    """Two at once, of unlike seeds, that share scores, states and ledger; each is killed six times at most."""
    chance, took, whole = random.Random(SEED), {}, {}
    for seed in (4, 5):
        begun = time.monotonic()
        alone = started(run_command(folder, tmp_path / f"alone{seed}", seed), tmp_path / f"cache{seed}")
        _, told = alone.communicate(timeout=300)
        assert alone.returncode == 0, told
        took[seed], whole[seed] = time.monotonic() - begun, tmp_path / f"alone{seed}"

    def killed_over_and_over(seed: int) -> int:
        out, kills = tmp_path / f"killed{seed}", 0
        while True:
            one = started(run_command(folder, out, seed), tmp_path / "shared")
            try:
                _, told = one.communicate(timeout=chance.uniform(0.3, 1.0) * took[seed] if kills < 6 else 300)
            except subprocess.TimeoutExpired:
                one.kill()
                one.communicate()
                kills += 1
                continue
            assert one.returncode == 0, told
            return kills

    with ThreadPoolExecutor(2) as pool:
        kills = list(pool.map(killed_over_and_over, (4, 5)))
    print(f"killed {kills} times")
    for seed in (4, 5):
        out = tmp_path / f"killed{seed}"
        assert without_times(journal_of(out)) == without_times(journal_of(whole[seed]))
        mine, alone_ = summary_of(out), summary_of(whole[seed])
        assert mine["arms"] == alone_["arms"] and mine["gains"] == alone_["gains"]
        assert not [path for path in out.rglob(".*") if path.name not in (".lock", ".best.lock")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_at_any_stage_and_loses_nothing(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    chance = random.Random(SEED)
    begun = time.monotonic()
    alone = started(run_command(folder, tmp_path / "alone", 4), tmp_path / "cache")
    _, told = alone.communicate(timeout=300)
    assert alone.returncode == 0, told
    took = time.monotonic() - begun
    for turn in range(6):
        one = started(run_command(folder, tmp_path / "run", 4), tmp_path / "again")
        time.sleep(took * (0.2 + 0.12 * turn))
        one.send_signal(signal.SIGINT)
        time.sleep(chance.choice((0.0, 0.01, 0.1, 0.5)))
        one.send_signal(how)
        _, told = one.communicate(timeout=60)
        assert "Traceback" not in told, (turn, told)
        assert one.returncode in (0, 130, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM), (turn, told)
    last = started(run_command(folder, tmp_path / "run", 4), tmp_path / "again")
    _, told = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert without_times(journal_of(tmp_path / "run")) == without_times(journal_of(tmp_path / "alone"))
    shutil.rmtree(tmp_path / "again")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pause", [0.0, 0.05, 0.5])
def test_a_second_signal_ends_a_server_that_drains(
    bench: Bench, tmp_path: Path, first: signal.Signals, second: signal.Signals, pause: float
) -> None:
    best = bench.save(tmp_path / "best")
    rows = texts(250)
    with process(best, "--batch", "2", "--drain", "3") as (server, client), ThreadPoolExecutor(12) as pool:
        found = [pool.submit(client.ask, "/predict", {"rows": rows}) for _ in range(4)]
        while client.ask("/health").json["waiting"] < 500:
            time.sleep(0.005)
        server.send_signal(first)
        time.sleep(pause)
        begun = time.monotonic()
        server.send_signal(second)
        _, told = server.communicate(timeout=60)
        seconds = time.monotonic() - begun
        # Whoever is cut off hears so, and nobody waits for ever.
        for each in found:
            assert each.exception(30) is None or isinstance(each.exception(), OSError | Exception)
    assert "Traceback" not in told and server.returncode == 0, told
    assert seconds < (15 if second == signal.SIGTERM else 10)
