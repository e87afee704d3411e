"""Log-probabilities of a model that knows every tag."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.task.values.output_fields import AnswerFields


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
