"""Reading data sets from the Hugging Face hub through ``datasets``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cotune.errors import InputError
from cotune.task.reading.table import Table

_MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti")
"""Features whose values are files."""
_NAME = re.compile(r"hf://(?P<path>[^:\s]+)(?::(?P<split>[^:\s]+))?\Z")


def read_hub(name: str, default_split: str = "train") -> Table:
    """A Table from ``hf://dataset[/config][:split]``; class numbers become class names.

    The data set is ``owner/name`` or a folder's absolute path (``hf:///data/mine``). Code in a data set is
    never run.

    Raises:
        InputError: if the name has another form, ``datasets`` is missing, or the data set cannot be loaded.
    """
    match = _NAME.match(name)
    if not match:
        raise InputError(
            "this is not a data set's name", where=name, hint="Write hf://owner/name, hf://owner/name/config:split."
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data sets from the hub need the package datasets",
            where=name,
            hint="Install it with: pip install 'cotune[hub]'.",
        ) from error
    split = match["split"] or default_split
    failure: Exception | None = None
    for path, config in _readings(match["path"]):
        try:
            loaded = datasets.load_dataset(path, config, split=split)
        except Exception as error:  # the library raises many unrelated types; all mean that the data set cannot be loaded
            failure = failure or error
            if isinstance(error, ConnectionError):
                break  # no other interpretation of the name can help, and each waits long
            continue
        return table_from_data_set(loaded, name)
    assert failure is not None
    reason = (str(failure).strip().splitlines() or [""])[0][:200]
    raise InputError(
        f"the data set cannot be loaded ({type(failure).__name__}: {reason})",
        where=name,
        hint="Check its name, config and split, and the network; a private one needs HF_TOKEN.",
    ) from failure


def _readings(path: str) -> list[tuple[str, str | None]]:
    """Possible data set and config of a path, the likelier interpretation first."""
    if path.startswith("/"):
        folder = Path(path)
        return [(path, None)] if folder.is_dir() else [(str(folder.parent), folder.name), (path, None)]
    parts = path.strip("/").split("/")
    likelier = ("/".join(parts[:2]), "/".join(parts[2:]) or None)
    return [likelier, (parts[0], parts[1])] if len(parts) == 2 else [likelier]


def table_from_data_set(data_set: Any, name: str) -> Table:
    """A Table from a ``datasets.Dataset``; class numbers become class names, and media are not decoded.

    Raises:
        InputError: if there are no rows, or a column cannot be read.
    """
    from cotune.task.reading.frames import shortest, table_from_columns

    columns = []
    for column, feature in data_set.features.items():
        if type(feature).__name__ in _MEDIA:
            # Decoding them needs further packages; as bytes they are refused only if they are an input or the output.
            columns.append((column, [b""] * len(data_set)))
            continue
        try:
            values = list(data_set[column])
        except Exception as error:  # packages that decode raise many types
            raise InputError(
                f"the column cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})",
                where=f"{name}, column {column!r}",
                hint="Leave the column out, for example with Dataset.select_columns.",
            ) from error
        if type(feature).__name__ == "ClassLabel":
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        columns.append((column, shortest(values, str(getattr(feature, "dtype", "")))))
    return table_from_columns(columns, name)
