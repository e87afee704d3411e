"""What is installed holds all of the source: a wheel leaves out what version control ignores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cotune"


def packed() -> set[str]:
    """Files of the source that a wheel holds, as it names them."""
    return {found.distribution_path for found in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_a_wheel_holds_every_file_of_the_source_and_the_examples() -> None:
    there = {
        f"cotune/{path.relative_to(above).as_posix()}"
        for above, folder in ((SOURCE, SOURCE), (ROOT, ROOT / "examples"))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed() == there


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("module", ["cotune", "cotune.cli"])
def test_the_command_is_a_module_too(module: str) -> None:
    # A command that needs no torch, which takes seconds to import.
    for arguments, code, said in ((["--version"], 0, "cotune "), (["report", "nowhere"], 2, "no such folder")):
        ended = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == code and said in ended.stdout + ended.stderr, ended.stderr
