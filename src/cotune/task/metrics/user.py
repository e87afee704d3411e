"""A user's metric: a function in a Python file that the config names."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cotune.cache import cache_folder
from cotune.errors import CotuneError, InputError
from cotune.files import content_hash, expanded, write_json
from cotune.task.answered import Answered, Floats

UserFunction = Callable[[Any, Any, dict[str, str]], float]
"""``score(right, answer, row)`` from 0 (wrong) to 1 (right); see :class:`UserMetric`."""


def names_user_metric(name: str) -> bool:
    """Whether a metric's name is a function in a file, as in ``metrics.py:score``."""
    return ".py:" in name


class UserMetric:
    """Calls ``score(right, answer, row)`` for each row; the score of a task is the mean.

    ``right`` and ``answer`` are texts for labels and free text, ``decimal.Decimal`` for numbers and plain Python values for
    JSON; ``answer`` is None if it is not a valid value. ``row`` maps the input fields to their texts. The function returns a
    number from 0 to 1, or True or False.

    The file is executed with the user's rights because the user names it, and only to score; bundles never contain it. A run's
    folder names it too, but a folder may come from elsewhere: there it is read with ``run=False`` and executed by :meth:`run`
    once the user has allowed it, or if :attr:`known` says that this user has run the same file before.

    Args:
        name: file and function, as in ``metrics.py:score``.
        where: place of the name, for errors.
        run: whether to execute the file now.

    Attributes:
        name: file and function, without the folder.
        fingerprint: content hash of the file, which affects the results of a run.

    Raises:
        InputError: there is no such file or function, or the file does not run.
    """

    def __init__(self, name: str, where: str = "metric", *, run: bool = True) -> None:
        file, _, function = name.rpartition(":")
        path = expanded(file)
        self.name = f"{path.name}:{function}"
        self._path, self._where = path, where
        try:
            self._source = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"the metric's file cannot be read ({error.strerror or error})",
                where=f"{where}, {path}",
                hint="Check its path.",
            ) from error
        self.fingerprint = content_hash([self._source.hex(), function])
        self._function: UserFunction | None = None
        if run:
            self.run()

    @property
    def known(self) -> bool:
        """Whether this user has run this file before, unchanged and in the same place."""
        with contextlib.suppress(CotuneError, OSError):
            return self._mark().is_file()
        return False

    def run(self) -> None:
        """Execute the file if necessary, and remember that the user allowed it.

        Raises:
            InputError: it does not run, or has no such function.
        """
        if self._function is not None:
            return
        self._function = self._load()
        # If the cache cannot be written, the user is asked again; the run continues.
        with contextlib.suppress(CotuneError, OSError):
            write_json(self._mark(), self.name)

    def _mark(self) -> Path:
        """The file that records the permission. Its name contains its folder's id, so that a copied cache grants nothing."""
        folder = cache_folder("metrics")
        place = str(self._path.absolute())
        return folder / f"{content_hash([folder.stat().st_ino, place, self.fingerprint], 40)}.json"

    def _load(self) -> UserFunction:
        path, where, function = self._path, self._where, self.name.rpartition(":")[2]
        module = ModuleType(f"cotune_user_metric_{path.stem}_{self.fingerprint}")
        module.__file__ = str(path)
        # A dataclass whose annotations are texts looks up its module by name.
        sys.modules[module.__name__] = module
        try:
            # Execute exactly what was hashed: neither a changed file nor a compiled one next to it.
            exec(compile(self._source, str(path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module.__name__]
            missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
            beside = path.parent / missing.partition(".")[0]
            one_file = missing and (beside.is_dir() or beside.with_suffix(".py").is_file())
            raise InputError(
                f"the metric's file cannot be executed ({type(error).__name__}: {error})",
                where=f"{where}, {path}",
                hint=f"A metric is one file and cannot import {beside.name} beside it: move what it needs into it."
                if one_file
                else "Correct it; python FILE shows the whole error.",
            ) from error
        target = getattr(module, function, None)
        if not callable(target):
            functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(
                f"the metric's file has no function {function!r}",
                where=f"{where}, {path}",
                hint=f"It has {', '.join(functions[:10]) or 'none'}; write metric: {path.name}:FUNCTION.",
            )
        chosen: UserFunction = target
        return chosen

    def __call__(self, answered: Answered) -> Floats:
        """``[rows]`` scores.

        Raises:
            InputError: the function fails, or returns anything but a number from 0 to 1; the message names the row.
        """
        function = self._function
        if function is None:
            raise RuntimeError("the metric's file was not executed")
        scores = np.empty(len(answered.references))
        for i, (right, answer) in enumerate(answered.pairs):
            row = answered.rows[i] if answered.rows else None
            where = f"metric {self.name}, row {row.id if row else i + 1}"
            try:
                value = function(right, answer, dict(row.fields) if row else {})
            except Exception as error:
                raise InputError(
                    f"the metric failed with {type(error).__name__}: {error}", where=where, hint="Correct the function."
                ) from error
            if (
                not isinstance(value, (bool, int, float, Decimal, np.number, np.bool_))
                or not math.isfinite(value)
                or not 0 <= value <= 1
            ):
                raise InputError(
                    f"the metric returned {value!r}", where=where, hint="It must return a number from 0 (wrong) to 1 (right)."
                )
            scores[i] = float(value)
        return scores
