"""Separate virtual environments for the peers, made from the index that pip is set to, with the versions of their files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from cotune.files import content_hash, write_text

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
_INSTALL_S = 1800.0


class NotInstallableError(Exception):
    """A peer's packages cannot be installed here; says why."""


@dataclass(frozen=True)
class Environments:
    """The folder of environments.

    Attributes:
        folder: where they lie; packages of torch's size make it several gigabytes without uv, which links equal files.
    """

    folder: Path

    def python(self, name: str) -> Path:
        """The interpreter of an environment, made on first use and again when its requirements change.

        ``uv`` installs where it is on the PATH, since it does so in seconds and shares files between environments; else pip.
        What failed once is remembered until the requirements change or its ``.failed`` file is removed.

        Raises:
            NotInstallableError: the packages cannot be installed.
        """
        needed = REQUIREMENTS / f"{name}.txt"
        digest = content_hash(needed.read_bytes(), 12)
        place = self.folder / name
        python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        made, failed = place / f".made-{digest}", self.folder / f"{name}-{digest}.failed"
        if made.is_file():
            return python
        if failed.is_file():
            raise NotInstallableError(failed.read_text(encoding="utf-8"))
        shutil.rmtree(place, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        uv, packages = shutil.which("uv"), _packages(needed)
        # Installing pip takes longer than the peer that needs nothing.
        venv.create(place, with_pip=packages and uv is None, symlinks=os.name != "nt")
        problem = install(needed, python, uv) if packages else ""
        if problem:
            shutil.rmtree(place, ignore_errors=True)
            write_text(failed, problem)
            raise NotInstallableError(problem)
        write_text(made, "")
        return python


def own_python() -> Path:
    """The interpreter that runs the harness, and with it the cotune that is compared."""
    return Path(sys.executable)


def _packages(needed: Path) -> bool:
    """Whether requirements name any package."""
    lines = (line.partition("#")[0].strip() for line in needed.read_text(encoding="utf-8").splitlines())
    return any(lines)


def install(needed: Path, python: Path, uv: str | None) -> str:
    """Install requirements for an interpreter; returns why it failed, empty where it did not."""
    own = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "--no-input"]
    command = [*own, "--quiet", "--requirement", str(needed)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired:
        return f"the installation took longer than {_INSTALL_S / 60:.0f} minutes"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "Because" in line] or lines[-3:]
    return " ".join(errors[:3])[:500] or f"the installer ended with {done.returncode}"
