from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cotune.errors import InputError
from cotune.model.hardware.capability import (
    _choose,
    check_capability,
    default_threads,
    measure_gemm,
)
from cotune.model.hardware.doctor import diagnose, render
from cotune.model.hardware.machine import (
    available_memory,
    cpu_quota,
    halve_until_it_fits,
    out_of_memory,
    processor_name,
    usable_cpus,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


# --- the machine


def test_a_cpu_that_is_out_of_memory_is_recognised() -> None:
    """Else a pass that is too large would end the run instead of being run in halves."""
    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 58)
    assert out_of_memory(full.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not out_of_memory(RuntimeError("shape '[1, 8]' is invalid for input of size 6"))


@pytest.mark.parametrize(("least", "sizes"), [(1, [20, 10, 5, 2]), (4, [20, 10, 5, 4])])
def test_a_pass_is_halved_until_it_fits(least: int, sizes: list[int]) -> None:
    tried: list[int] = []

    def run(size: int) -> str:
        tried.append(size)
        if size > sizes[-1]:
            raise torch.OutOfMemoryError("out of memory")
        return "done"

    assert halve_until_it_fits(run, 20, torch.device("cpu"), least=least) == "done" and tried == sizes


@pytest.mark.parametrize(("error", "tries"), [("out of memory", [10, 5, 3]), ("shapes do not match", [10])])
def test_a_pass_that_cannot_be_smaller_or_fails_otherwise_raises(error: str, tries: list[int]) -> None:
    tried: list[int] = []

    def run(size: int) -> None:
        tried.append(size)
        raise RuntimeError(error)

    with pytest.raises(RuntimeError, match=error):
        halve_until_it_fits(run, 10, torch.device("cpu"), least=3)
    assert tried == tries


def test_quota_of_version_2_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/cpu.max": "400000 100000",
        },
    )
    assert cpu_quota(root) == 1.5
    assert usable_cpus(root) == 1
    write(root, {"sys/fs/cgroup/a/cpu.max": "20000 100000"})
    assert usable_cpus(root) == 1, "never none"
    write(root, {"sys/fs/cgroup/a/cpu.max": "max 100000", "sys/fs/cgroup/cpu.max": "max 100000"})
    assert cpu_quota(root) is None
    assert usable_cpus(root) == len(os.sched_getaffinity(0))


def test_quota_of_version_1_and_a_path_of_the_host(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n1:name=systemd:/x",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert cpu_quota(root) == 2.5
    write(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1"})
    assert cpu_quota(root) is None


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert processor_name(tmp_path)
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from cotune.model.hardware.machine import usable_cpus; print(usable_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "1"


@pytest.mark.parametrize("version", [1, 2])
def test_memory_honours_the_container_and_its_reclaimable_cache(tmp_path: Path, version: int) -> None:
    names = {
        1: ("4:memory:/", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
        2: ("0::/", "memory.max", "memory.current", "memory.stat"),
    }[version]
    inactive = {1: "inactive_file 1\ntotal_inactive_file 3000", 2: "anon 7000\ninactive_file 3000"}[version]
    base = "sys/fs/cgroup/"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": names[0],
            base + names[1]: "20000",
            base + names[2]: "10000",
            base + names[3]: inactive,
        },
    )
    assert available_memory(root) == 13000
    write(root, {base + names[2]: "90000"})
    assert available_memory(root) == 0
    write(root, {base + names[1]: {1: "9223372036854771712", 2: "max"}[version]})
    assert available_memory(root) > 1_000_000


def test_memory_without_a_limit_is_the_machine_s(tmp_path: Path) -> None:
    assert abs(available_memory(tmp_path) - psutil.virtual_memory().available) < 1 << 30


# --- the probe


def test_threads_are_no_more_than_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for wish, expected in (
        ("1", 1),
        ("1,4", 1),
        ("9999", usable_cpus()),
        ("", usable_cpus()),
        ("x", usable_cpus()),
        ("0", usable_cpus()),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
        assert default_threads() == expected


def test_probe_is_quick_measures_and_is_remembered(cache: Path) -> None:
    before = torch.get_num_threads()
    start = time.perf_counter()
    found = check_capability("cpu", threads=1)
    assert time.perf_counter() - start < 3
    assert torch.get_num_threads() == before
    assert found.device == "cpu"
    assert found.threads == 1
    assert found.gemm_gflops["float32"] > 0.5
    assert found.torch_version == torch.__version__
    fast = found.gemm_gflops["bfloat16"] >= 1.2 * found.gemm_gflops["float32"]
    assert found.dtype == ("bfloat16" if fast else "float32")
    assert 0 < found.memory_bytes <= psutil.virtual_memory().total

    (stored,) = (cache / "probe").iterdir()
    content = json.loads(stored.read_text())
    content["gemm_gflops"] = {"float32": 10.0, "bfloat16": 100.0}
    stored.write_text(json.dumps(content))
    again = check_capability("cpu", threads=1)
    assert again.dtype == "bfloat16"
    assert again.gemm_gflops == {"float32": 10.0, "bfloat16": 100.0}
    assert check_capability("cpu", "float32", threads=1).dtype == "float32"
    for damage in ("[]", '{"gemm_gflops": {"float32": 1}}'):
        stored.write_text(damage)
        assert check_capability("cpu", threads=1).gemm_gflops["float32"] not in (1.0, 10.0)


def test_other_threads_are_measured_apart(cache: Path) -> None:
    check_capability("cpu", threads=1)
    check_capability("cpu", threads=2)
    assert len(list((cache / "probe").iterdir())) == 2


def test_probe_works_where_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("COTUNE_CACHE", str(blocked))
    assert check_capability("cpu", threads=1).gemm_gflops["float32"] > 0


@pytest.mark.parametrize(("bfloat16", "expected"), [(0.0, "float32"), (119.0, "float32"), (121.0, "bfloat16")])
def test_bfloat16_must_be_clearly_faster_on_a_cpu(bfloat16: float, expected: str) -> None:
    assert _choose({"float32": 100.0, "bfloat16": bfloat16}, torch.device("cpu")) == expected


def test_slow_first_calls_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that wait for each other make the first calls fifty times slower. A clock that only calls move says so.
    now, calls = 0.0, 0
    real = torch.nn.functional.linear

    def linear(given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        nonlocal now, calls
        calls += 1
        flops = 2 * given.shape[0] * weight.shape[0] * weight.shape[1]
        now += flops / 1e11 * (50 if calls <= 6 else 1)
        return real(given, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert measure_gemm("cpu", "float32") == pytest.approx(100.0)
    assert calls > 6


def test_what_was_found_is_plain_json(cache: Path) -> None:
    found = check_capability("cpu", threads=1)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:x"}, "unknown device"),
        ({"dtype": "int4"}, "unknown dtype 'int4'"),
        ({"threads": 0}, "threads must be positive, not 0"),
    ],
)
def test_wrong_wishes_are_told(cache: Path, arguments: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        check_capability(**arguments)  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_told(cache: Path) -> None:
    with pytest.raises(InputError, match="there is no cuda device"):
        check_capability("cuda")


# --- the doctor


def plain(diagnosis: object) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(render(diagnosis))  # type: ignore[arg-type]
    return console.export_text()


def test_doctor_covers_everything_and_renders(cache: Path) -> None:
    diagnosis = diagnose()
    names = [check.name for check in diagnosis.checks]
    assert names == [
        "python",
        "torch",
        "transformers",
        "peft",
        "device",
        "dtype",
        "threads",
        "memory",
        "disk",
        "model",
        "hub",
    ]
    by_name = {check.name: check for check in diagnosis.checks}
    assert by_name["torch"].status == "ok"
    # How it was built stands in the package's version or not.
    assert torch.__version__.partition("+")[0] in by_name["torch"].finding
    assert "GFLOP/s" in by_name["dtype"].finding
    assert by_name["model"].status == "warn"
    assert "COTUNE_SMOLLM2_WHEEL" in by_name["model"].hint
    assert "not contacted" in by_name["hub"].finding
    assert all(check.hint for check in diagnosis.checks if check.status != "ok")
    text = plain(diagnosis)
    for check in diagnosis.checks:
        assert check.name in text
    assert "warn" in text
    value = json.loads(json.dumps(diagnosis.to_json(), allow_nan=False))
    assert [row["name"] for row in value["checks"]] == names
    assert value["probe"] == diagnosis.probe.to_json()  # type: ignore[union-attr]
    assert value["status"] == diagnosis.status


def test_doctor_finds_a_damaged_model_and_an_unwritable_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cotune.files import file_sha256
    from cotune.model.loading.bundled import MANIFEST, bundled_target

    target = bundled_target()
    target.mkdir(parents=True)
    (target / "a").write_text("abc")
    files = {"a": {"bytes": 3, "sha256": file_sha256(target / "a")}}
    (target / MANIFEST).write_text(json.dumps({"files": files}))

    def model_check() -> tuple[str, str]:
        (check,) = (check for check in diagnose().checks if check.name == "model")
        return check.status, f"{check.finding} {check.hint}"

    assert model_check()[0] == "ok"
    (target / "a").write_text("abd")
    status, text = model_check()
    assert status == "fail"
    assert "a has changed" in text
    assert str(target) in text

    blocked = cache.parent / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("COTUNE_CACHE", str(blocked))
    diagnosis = diagnose()
    assert diagnosis.status == "fail"
    (disk,) = (check for check in diagnosis.checks if check.name == "disk")
    assert "COTUNE_CACHE" in disk.hint
