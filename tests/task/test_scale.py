"""Numbers as thresholds: how they are chosen, and answers from them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.task.values.kinds.registry import KINDS
from cotune.task.values.number import number_in, number_text
from cotune.task.values.output import Output
from cotune.task.values.scale import MOST_THRESHOLDS, Scale, scale_of

NUMBERS = st.lists(
    st.one_of(st.integers(-1000, 1000), st.decimals(allow_nan=False, allow_infinity=False, places=3), st.floats(0, 1e300)),
    min_size=1,
    max_size=60,
)


def certain(scale: Scale, output: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities of a model that knows on which side of every threshold a number is."""
    places = scale.places(output)
    assert places is not None
    table = np.full((1, len(scale.names)), -math.inf)
    table[0, places[0]] = 0.0
    return table


def test_thresholds_lie_between_the_numbers_and_levels_are_the_means_of_the_parts() -> None:
    scale = scale_of(["1", "2", "2", "4.5", "4.5", "5.5"])
    assert scale is not None and scale.thresholds == (1.5, 3.25, 5.0) and scale.levels == (1.0, 2.0, 4.5, 5.5)
    assert scale.names[:4] == ("at most 1.5", "above 1.5", "at most 3.25", "above 3.25") and scale.sizes == (2, 2, 2)
    found = [scale.places(output) for output in ("3", "about 9", "many")]
    assert [None if one is None else one.tolist() for one in found] == [[[1, 2, 4]], [[1, 3, 5]], None]


def test_thresholds_have_no_rounding_errors() -> None:
    scale = scale_of(["1.1", "1.3", "2.2", "2.5"])
    assert scale is not None and scale.names[::2] == ("at most 1.2", "at most 1.75", "at most 2.35")


def test_many_numbers_are_cut_into_parts_of_about_equal_size() -> None:
    values = np.random.default_rng(0).lognormal(size=400)
    scale = scale_of([repr(float(value)) for value in values])
    assert scale is not None and len(scale.thresholds) == MOST_THRESHOLDS
    counts = np.bincount(np.searchsorted(scale.thresholds, values))
    assert counts.min() >= 15 and counts.max() <= 35


def test_an_answer_is_the_mean_of_the_distribution() -> None:
    scale = scale_of(["0", "1", "2", "3"])
    assert scale is not None and scale.levels == (0, 1, 2, 3)
    shares = np.array([[0.9, 0.5, 0.2]])
    table = np.log(np.stack([1 - shares, shares], axis=2).reshape(1, -1))
    assert float(scale.answers(table)[0]) == pytest.approx(1.6, abs=0.005)


@pytest.mark.parametrize(
    ("outputs", "decimals"),
    [
        (["1", "2", "3", "4", "5"], 2),
        (["10", "400", "230", "1500"], 0),
        (["0.25", "100.5"], 2),
        (["3.799999952316284", "1"], 6),
        (["0.00000001", "0.00000003"], 10),
    ],
)
def test_answers_have_the_decimals_of_the_labelled_numbers_or_steps_of_a_hundredth_of_their_spread(
    outputs: list[str], decimals: int
) -> None:
    scale = scale_of(outputs)
    assert scale is not None and scale.decimals == decimals


@given(NUMBERS)
def test_every_number_has_places_and_certain_places_give_its_level(numbers: list[Any]) -> None:
    outputs = [KINDS["number"].canonical(str(number), Output("number")) for number in numbers]
    scale = scale_of(outputs)
    values = {float(number) for output in outputs if (number := number_in(output)) is not None}
    if scale is None:
        # Numbers that are equal, or nearly so, or whose squares are beyond doubles.
        assert len(values) == 1 or max(map(abs, values)) > 1e150 or min(np.diff(sorted(values))) < 1e-9
        return
    assert all(low < high for low, high in zip(scale.thresholds, scale.thresholds[1:], strict=False))
    assert len(set(scale.names)) == len(scale.names)
    assert Scale.from_json(json.loads(json.dumps(scale.to_json()))) == scale
    span = scale.levels[-1] - scale.levels[0]
    for output in outputs:
        (answer,) = scale.answers(certain(scale, output))
        above = scale.places(output)
        level = scale.levels[0 if above is None else int((above % 2).sum())]
        assert float(answer) == pytest.approx(level, abs=1e-9 * span + 0.51 * 10**-scale.decimals)
        assert number_text(number_in(answer) or number_in("0")) == answer  # type: ignore[arg-type]


NEIGHBOURS = ["1.0000000000000002", "1.0000000000000004"]


@pytest.mark.parametrize("outputs", [["4", "4"], ["1e400", "2"], [], NEIGHBOURS])
def test_numbers_that_cannot_be_told_apart_have_no_scale(outputs: list[str]) -> None:
    assert scale_of(outputs) is None


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": []},
        {"thresholds": [2.0, 1.0]},
        {"thresholds": [1.0, True]},
        {"thresholds": ["1"]},
        {"thresholds": 3},
        {"levels": [0.0, 1.0]},
        {"levels": [3.0, 2.0, 1.0]},
        {"levels": None},
        {"decimals": -1},
        {"decimals": 2.0},
        {"decimals": 400},
    ],
)
def test_a_damaged_scale_in_a_bundle_is_refused(change: dict[str, Any]) -> None:
    schema = {"type": "number", "thresholds": [1.0, 2.0], "levels": [0.0, 1.5, 3.0], "decimals": 1}
    assert Output.from_json({"type": "number", "schema": schema}).fields is not None
    with pytest.raises(InputError, match="scale"):
        Output.from_json({"type": "number", "schema": {**schema, **change}})


def test_a_number_without_a_scale_is_generated_and_keeps_its_constraint() -> None:
    kind = KINDS["number"]
    whole, odd = Output("number", schema_text='{"type": "integer"}'), Output("number", schema_text='{"type": "number"}')
    assert whole.fields is None and odd.fields is None
    schema = kind.schema_of(["1", "2", "7"], None)
    assert schema is not None and schema["type"] == "integer"
    for output, integer in ((whole, True), (odd, False), (Output("number", schema_text=json.dumps(schema)), True)):
        assert output.constraint is not None and output.constraint.integer is integer


def test_an_earlier_scale_is_kept_if_the_numbers_are_alike() -> None:
    kind, rng = KINDS["number"], np.random.default_rng(1)
    first, again = ([f"{value:.2f}" for value in rng.normal(50, 10, size=200)] for _ in range(2))
    schema = kind.schema_of(first, None)
    assert kind.kept_schema(schema, again) == schema and kind.schema_of(again, schema) == schema
    moved = [f"{value:.2f}" for value in rng.normal(80, 10, size=200)]
    assert kind.kept_schema(schema, moved) is None
    assert kind.kept_schema({"type": "number"}, again) is None
    assert kind.kept_schema({name: value for name, value in schema.items() if name != "type"}, again) is None
    whole = kind.schema_of([str(i) for i in range(40)], None)
    assert kind.kept_schema(whole, [str(i) for i in range(40)]) == whole
    assert kind.kept_schema(whole, [str(i + 0.25) for i in range(40)]) is None


def test_numbers_below_all_decimals_have_no_scale() -> None:
    assert scale_of([f"{i}e-20" for i in range(1, 9)]) is None
    assert scale_of([f"{i}e-9" for i in range(1, 9)]) is not None
