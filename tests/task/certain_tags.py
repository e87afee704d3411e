"""Log-probabilities of a model that knows every tag, and where values stand in texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.output_fields import AnswerFields
from cotune.task.values.placing import Owner, placed


def certain(fields: AnswerFields, output: Any, text: str) -> NDArray[np.float64]:
    """``[states, values]`` log-probabilities: 0 for the values of an output, -9 for all others."""
    places = fields.places(json.dumps(output), text)
    assert places is not None
    table = np.full((len(places), len(fields.names)), -9.0)
    np.put_along_axis(table, places, 0.0, axis=1)
    return table


def read_back(fields: AnswerFields, output: Any, text: str) -> Any:
    """The answer of a model that knows every tag of an output."""
    return json.loads(fields.answers(certain(fields, output, text), [text])[0])


def found_in(
    text: str, values: Sequence[Sequence[Any]], owners: Sequence[Sequence[Owner | None]] | None = None
) -> tuple[list[tuple[int, int, int]], list[list[str]]]:
    """Where the values of several parts stand in a text: part, first and last word; and each part's values that do not.

    ``owners`` are as in :func:`cotune.task.values.placing.placed`.
    """
    found: list[tuple[int, int, int]] = []
    missing: list[list[str]] = [[] for _ in values]
    for part, value, place, _ in placed(text, values, owners):
        if place is None:
            missing[part].append(value)
        else:
            found.append((part, *place))
    return sorted(found, key=lambda span: span[1]), missing
