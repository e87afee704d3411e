"""The notebooks run from top to bottom in a real kernel, and show what a whole run with the bundled model gave."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tiny import save_tiny

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
_ROWS = {"train": 64, "test": 20}


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all tests: torch is imported once."""
    manager = KernelManager(kernel_name="python3")
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    manager.start_kernel(cwd=str(FOLDER), env={**os.environ, "PATH": commands})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the first cell of each notebook names: a tiny model and a part of the rows in place of the real ones."""
    folder = tmp_path_factory.mktemp("notebooks")
    for example in ("spam", "routing", "support"):
        (folder / example).mkdir()
        for split, count in _ROWS.items():
            lines = (ROOT / "examples" / example / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / example / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    model = save_tiny(folder / "model")
    return {"BUDGET": "30ktok", "MODEL": str(model), "EXAMPLES": str(folder), "RUNS": str(folder / "runs")}


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def placed(name: str, places: dict[str, str]) -> Any:
    """A notebook whose first cell names these places, and which forgets what another one left in the kernel."""
    notebook = read(name)
    first = code_cells(notebook)[0]
    assert first.metadata["tags"] == ["parameters"]
    assert set(re.findall(r"^(\w+) = ", first.source, re.MULTILINE)) == set(places)
    first.source = "%reset -f\n" + "\n".join(f"{key} = {value!r}" for key, value in places.items())
    return notebook


def execute(notebook: Any, kernel: KernelManager) -> None:
    """Run all cells, and fail where the result of a run is not shown with its tables and pictures."""
    NotebookClient(notebook, km=kernel, timeout=200, record_timing=False).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs if "data" in output]
    shown = [output.data["text/html"] for output in outputs if "text/html" in output.data]
    assert any("On the sealed test" in block and "What is taken for what" in block for block in shown)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "first_run"])
def test_a_notebook_runs_from_top_to_bottom(name: str, kernel: KernelManager, places: dict[str, str]) -> None:
    execute(placed(name, places), kernel)


def test_a_run_in_a_notebook_can_be_interrupted_and_gone_on_with(kernel: KernelManager, places: dict[str, str]) -> None:
    notebook, out = placed("first_run", places), Path(places["RUNS"]) / "first"

    def kinds() -> list[str]:
        journal = out / "journal.jsonl"
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        return [json.loads(line)["kind"] for line in lines]

    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    sources = [cell.source for cell in code_cells(notebook)]
    run = next(number for number, source in enumerate(sources) if "cotune.run(" in source)
    asked = client.execute("\n".join(sources[: run + 1]))
    until = time.monotonic() + 120
    while "race" not in kinds():
        assert time.monotonic() < until
        time.sleep(0.02)
    kernel.interrupt_kernel()
    reply = client.get_shell_msg(timeout=120)
    client.stop_channels()
    assert reply["parent_header"]["msg_id"] == asked
    assert (reply["content"]["status"], reply["content"].get("ename")) == ("error", "KeyboardInterrupt")
    before = kinds()
    assert "done" not in before
    execute(notebook, kernel)
    assert kinds()[: len(before)] == before and "done" in kinds()


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_was_run_whole_and_names_no_place_on_the_machine(name: str) -> None:
    cells = code_cells(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for cell in cells for output in cell.outputs)
    assert "smollm2-135m" in cells[0].source
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|usr|opt|var|work|Users|mnt|srv)/", text)
    # An execution's times change with every run.
    assert not any("execution" in cell.metadata for cell in cells)
