"""Points that are dropped, and the order that keeps them apart: against what each promises, on drawn points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotune.embed import farthest_first, without_near_duplicates
from cotune.embed.select import distances

_CLOSE = 1e-6

# Few whole numbers: many points coincide, or lie as far from another as a third does.
POINTS = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), max_size=12).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 3)
)


def gaps_of(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine distances, in so many words."""
    return np.array([[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors] for a in vectors], np.float64)


@given(POINTS)
def test_distances_are_one_less_the_cosine(points: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(distances(points), gaps_of(points).reshape(len(points), len(points)), atol=_CLOSE)


@given(POINTS, st.sampled_from([0.0213, 0.2113, 0.6113, 1.1113]), st.data())
def test_the_earlier_of_two_near_points_stays_and_nothing_else_goes(
    points: NDArray[np.float32], threshold: float, data: st.DataObject
) -> None:
    keep = data.draw(st.lists(st.sampled_from(range(len(points))), unique=True)) if len(points) else []
    staying = without_near_duplicates(points, threshold, keep=keep)
    gaps = gaps_of(points)
    assert staying == sorted(set(staying)) and set(keep) <= set(staying)
    for point in range(len(points)):
        rivals = [other for other in staying if other != point and (other in keep or other < point)]
        near = any(gaps[point, other] < threshold for other in rivals)
        assert (point in staying) == (point in keep or not near)


def test_of_near_equal_points_the_first_stays_unless_a_later_one_must() -> None:
    points = np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1]], np.float32)
    assert without_near_duplicates(points, 0.02) == [0, 2]
    assert without_near_duplicates(points, 0.02, keep=[3]) == [0, 3]
    assert without_near_duplicates(points, 0.02, keep=[2, 3]) == [0, 2, 3]


@given(POINTS, st.data())
def test_each_point_is_the_farthest_from_all_before_it(points: NDArray[np.float32], data: st.DataObject) -> None:
    everyone = range(len(points))
    start = data.draw(st.lists(st.sampled_from(everyone), max_size=3)) if len(points) else []
    count = data.draw(st.none() | st.integers(0, len(points) + 2))
    order = farthest_first(points, start=start, count=count)
    gaps = gaps_of(points)
    given_first = list(dict.fromkeys(start)) or [0]
    assert len(order) == len(set(order)) == (len(points) if count is None else min(count, len(points)))
    assert order[: len(given_first)] == given_first[: len(order)]
    for place in range(len(given_first), len(order)):
        before = order[:place]
        nearest = {point: gaps[point, before].min() for point in everyone if point not in before}
        assert nearest[order[place]] > max(nearest.values()) - _CLOSE


@pytest.mark.parametrize(
    ("start", "order"), [((0,), [0, 2, 1, 4, 3]), ((1,), [1, 4, 0, 2, 3]), ((3, 0), [3, 0, 2, 1, 4]), ((), [0, 2, 1, 4, 3])]
)
def test_ties_go_to_the_earlier_point(start: tuple[int, ...], order: list[int]) -> None:
    points = np.array([[1, 0], [0, 1], [-1, 0], [1, 0], [0, -1]], np.float32)
    assert farthest_first(points, start=start) == order
    assert farthest_first(points, start=start, count=3) == order[:3]
    assert farthest_first(points[:0]) == []
