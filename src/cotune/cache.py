"""The cache folder, for data that can be computed again: converted models, probe results, fingerprints, scores."""

from __future__ import annotations

import os
from pathlib import Path

from cotune.errors import InputError
from cotune.files import expanded

CACHE_VARIABLE = "COTUNE_CACHE"


def cache_folder(*parts: str, create: bool = True) -> Path:
    """The cache folder, or a folder below it: ``$COTUNE_CACHE``, else the system's cache folder for cotune.

    Args:
        parts: names of subfolders.
        create: whether to create the folder if it is missing.

    Raises:
        InputError: if the folder cannot be created: read-only, a file of that name, or a full disk.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        root = expanded(chosen).absolute()
    else:
        from platformdirs import user_cache_path

        root = user_cache_path("cotune")
    folder = root.joinpath(*parts)
    if create:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"the cache folder cannot be created ({reason})",
                where=str(folder),
                hint=f"Set {CACHE_VARIABLE} to a folder that can be written to.",
            ) from error
    return folder
