"""A metric of the user's own: a function in a Python file that the config names."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cotune.errors import InputError
from cotune.files import content_hash
from cotune.task.answered import Answered, Floats

UserFunction = Callable[[Any, Any, dict[str, str]], float]
"""``score(right, answer, row)`` from 0 (wrong) to 1 (right); see :class:`UserMetric`."""


def names_user_metric(name: str) -> bool:
    """Whether a metric's name means a function in a file, as in ``metrics.py:score``."""
    return ".py:" in name


def split_name(name: str) -> tuple[Path, str]:
    """The file and the function that ``metrics.py:score`` names."""
    file, _, function = name.rpartition(":")
    return Path(file).expanduser(), function


class UserMetric:
    """Calls ``score(right, answer, row)`` for each row; the score of a task is the mean.

    ``right`` and ``answer`` are texts for labels and free text, ``decimal.Decimal`` for numbers and plain Python values for
    JSON; ``answer`` is None where it is no value of the output's type. ``row`` maps the input fields to their texts. The
    function gives a number from 0 to 1, or True or False.

    The file is run because the user names it, with all that the user may do, and only to score; bundles never hold it.

    Args:
        name: file and function, as in ``metrics.py:score``.
        where: where the name stands, for errors.

    Attributes:
        name: file and function, without the folder.
        fingerprint: content hash of the file, since what it says decides what a run finds.

    Raises:
        InputError: there is no such file or function, or the file does not run.
    """

    def __init__(self, name: str, where: str = "metric") -> None:
        path, function = split_name(name)
        self.name = f"{path.name}:{function}"
        try:
            source = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"the metric's file cannot be read ({error.strerror or error})",
                where=f"{where}, {path}",
                mend="Check its path.",
            ) from error
        self.fingerprint = content_hash([source.hex(), function])
        self._function = self._load(path, function, where)

    @staticmethod
    def _load(path: Path, function: str, where: str) -> UserFunction:
        spec = importlib.util.spec_from_file_location(f"cotune_user_metric_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise InputError("the metric's file is no Python file", where=f"{where}, {path}", mend="Name a .py file.")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(
                f"the metric's file does not run ({type(error).__name__}: {error})",
                where=f"{where}, {path}",
                mend="Correct it; python FILE shows the whole error.",
            ) from error
        found = getattr(module, function, None)
        if not callable(found):
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(
                f"the metric's file has no function {function!r}",
                where=f"{where}, {path}",
                mend=f"It has {', '.join(known[:10]) or 'none'}; write metric: {path.name}:FUNCTION.",
            )
        chosen: UserFunction = found
        return chosen

    def __call__(self, answered: Answered) -> Floats:
        """``[rows]`` scores.

        Raises:
            InputError: the function fails, or gives something else than a number from 0 to 1; names the row.
        """
        scores = np.empty(len(answered.gold))
        for i, (right, answer) in enumerate(answered.pairs):
            row = answered.rows[i] if answered.rows else None
            where = f"metric {self.name}, row {row.id if row else i + 1}"
            try:
                found = self._function(right, answer, dict(row.fields) if row else {})
            except Exception as error:
                raise InputError(
                    f"the metric failed with {type(error).__name__}: {error}", where=where, mend="Correct the function."
                ) from error
            if (
                not isinstance(found, (bool, int, float, np.number, np.bool_))
                or not math.isfinite(found)
                or not 0 <= found <= 1
            ):
                raise InputError(
                    f"the metric gave {found!r}", where=where, mend="It must give a number from 0 (wrong) to 1 (right)."
                )
            scores[i] = float(found)
        return scores
