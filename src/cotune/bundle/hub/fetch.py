"""Fetching a bundle that ``cotune push`` uploaded to the hub, with a cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from cotune.bundle.manifest import ENDINGS, MANIFEST, read_manifest, verify
from cotune.bundle.place import atomic_folder
from cotune.cache import cache_folder
from cotune.errors import InputError
from cotune.model.loading.folder import hub_error, network_errors, quiet_bars

SCHEME = "hf://"
BUNDLE_FOLDER = "bundle"
"""Folder of the bundle in a repository."""

_NAME = re.compile(r"hf://(?P<repository>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^@\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_on_hub(name: str | Path) -> bool:
    """Whether a name is that of a repository on the hub."""
    return isinstance(name, str) and name.startswith(SCHEME)


def fetch_bundle(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """The local folder of a bundle on the hub, fetched into the cache if necessary.

    Only the JSON, Markdown and safetensors files of the bundle are fetched. A cached commit is not fetched again; a branch or
    tag is resolved again whenever the hub can be reached.

    Args:
        name: ``hf://org/name``, or ``hf://org/name@revision`` for a branch, tag or commit.

    Raises:
        InputError: the name is invalid, the repository or revision does not exist or cannot be accessed, there is no network,
            or it contains no bundle or a damaged one.
    """
    import huggingface_hub

    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            "this is not the name of a bundle on the hub", where=name, hint="Write hf://org/name or hf://org/name@revision."
        )
    repository, revision = match["repository"], match["revision"]
    kept = cache_folder("bundles", repository.replace("/", "--"))
    if revision and _COMMIT.fullmatch(revision) and _is_whole(kept / revision):
        return kept / revision
    if progress:
        progress(f"Fetching {name}.")
    try:
        with quiet_bars():
            snapshot = huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=[f"{BUNDLE_FOLDER}/*{ending}" for ending in ENDINGS]
            )
    except network_errors() as error:
        raise hub_error(error, repository, revision or "main", name) from error
    source, target = Path(snapshot) / BUNDLE_FOLDER, kept / Path(snapshot).name
    if not (source / MANIFEST).is_file():
        raise InputError(
            f"the repository contains no bundle ({BUNDLE_FOLDER}/{MANIFEST})",
            where=name,
            hint="Give a repository that was pushed by cotune push, and a revision that contains a bundle.",
        )
    if not _is_whole(target):
        _copy(source, target)
        try:
            verify(target, read_manifest(target))
        except InputError as error:
            hint = "Push the bundle again, or give another revision."
            raise InputError(f"{error.what} ({error.where})", where=name, hint=hint) from error
    return target


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder, read_manifest(folder))
    except InputError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy files that the hub's own cache stores as links, which bundles must not contain."""
    with atomic_folder(target) as temporary:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                copy = temporary / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
