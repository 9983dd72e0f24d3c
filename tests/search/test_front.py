"""The front against brute force, the hypervolume against closed forms, the knee against hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.search.objectives import LIMITS, OBJECTIVES, latency_on
from karui.search.statistics.front import hypervolume, knee_index, pareto_mask

Point = tuple[float, float, float]
POINTS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 6)).map(
        lambda p: (float(p[0]), float(p[1]), p[2] / 6)
    ),
    max_size=24,
)


def dominates(one: Point, other: Point) -> bool:
    no_worse = one[0] <= other[0] and one[1] <= other[1] and one[2] >= other[2]
    return no_worse and one != other


@given(POINTS)
def test_the_front_agrees_with_brute_force(points: list[Point]) -> None:
    mask = pareto_mask(points, OBJECTIVES)
    expected = {point for point in points if not any(dominates(other, point) for other in points)}
    kept = [point for point, on_front in zip(points, mask, strict=True) if on_front]
    assert set(kept) == expected
    assert len(kept) == len(expected), "of equal points one is kept"


@given(POINTS, st.randoms())
def test_the_front_does_not_depend_on_the_order(points: list[Point], chance: object) -> None:
    shuffled = list(points)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    kept = [
        {point for point, on_front in zip(some, pareto_mask(some, OBJECTIVES), strict=True) if on_front}
        for some in (points, shuffled)
    ]
    assert kept[0] == kept[1]


def test_a_nan_row_evicts_nobody() -> None:
    with pytest.raises(ValueError, match="cannot be ranked"):
        pareto_mask([(1.0, 1.0, 0.9), (math.nan, 1.0, 0.9)], OBJECTIVES)


BASELINE = (1000.0, 10.0, 0.9)


def test_the_hypervolume_of_one_point_is_a_box() -> None:
    # Half the size, a quarter of the time, 5 points lost of the 10 allowed.
    expected = math.log(2) * math.log(4) * 0.05
    assert hypervolume([(500.0, 2.5, 0.85)], BASELINE) == pytest.approx(expected)


def test_the_hypervolume_of_two_points_is_the_union_of_their_boxes() -> None:
    small, fast = (500.0, 5.0, 0.9), (800.0, 2.5, 0.9)
    depth = 0.1
    boxes = [(math.log(1000 / size), math.log(10 / time)) for size, time, _ in (small, fast)]
    overlap = min(boxes[0][0], boxes[1][0]) * min(boxes[0][1], boxes[1][1])
    expected = depth * (boxes[0][0] * boxes[0][1] + boxes[1][0] * boxes[1][1] - overlap)
    assert hypervolume([small, fast], BASELINE) == pytest.approx(expected)


@pytest.mark.parametrize("point", [(1000.0, 1.0, 0.9), (10.0, 10.0, 0.9), (10.0, 1.0, 0.8), (5000.0, 50.0, 0.1)])
def test_a_point_no_better_than_the_reference_adds_nothing(point: Point) -> None:
    assert hypervolume([point], BASELINE) == pytest.approx(0.0, abs=1e-12)


def test_further_objectives_count_by_their_logarithm_against_the_baseline() -> None:
    objectives, baseline = (*OBJECTIVES, LIMITS[0], latency_on("pi5")), (*BASELINE, 8.0, 3.0)
    expected = math.log(2) * math.log(4) * 0.05 * math.log(8) * math.log(3)
    assert hypervolume([(500.0, 2.5, 0.85, 1.0, 1.0)], baseline, objectives) == pytest.approx(expected)
    assert hypervolume([(500.0, 2.5, 0.85, 8.0, 1.0)], baseline, objectives) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("unit", "baseline"), [(100.0, 0.9), (1e-3, -27.0), (1e3, -27.0), (40.0, 200.0), (7.0, 3.0)])
def test_the_unit_of_the_metric_changes_no_volume(unit: float, baseline: float) -> None:
    shares = [(500.0, 2.5, 0.05), (300.0, 4.0, 0.09), (900.0, 9.0, -0.5)]
    scale = 1.0 if 0.0 <= baseline <= 1.0 else abs(baseline)
    plain = [(size, time, baseline - lost * scale) for size, time, lost in shares]
    scaled = [(size, time, unit * value) for size, time, value in plain]
    expected = hypervolume(plain, (1000.0, 10.0, baseline))
    assert expected > 0.0
    assert hypervolume(scaled, (1000.0, 10.0, unit * baseline)) == pytest.approx(expected)


def test_ten_points_of_a_negative_metric_are_a_tenth_of_its_magnitude() -> None:
    expected = math.log(2) * math.log(4) * 0.05
    assert hypervolume([(500.0, 2.5, -2.1)], (1000.0, 10.0, -2.0)) == pytest.approx(expected)
    assert hypervolume([(500.0, 2.5, -2.2)], (1000.0, 10.0, -2.0)) == pytest.approx(0.0, abs=1e-12)
    assert hypervolume([(500.0, 2.5, 0.0)], (1000.0, 10.0, 0.0)) == pytest.approx(math.log(2) * math.log(4) * 0.1)


def test_no_points_have_no_volume() -> None:
    assert hypervolume([], BASELINE) == 0.0


@given(POINTS, st.tuples(st.floats(1, 900), st.floats(0.1, 9), st.floats(0.8, 1.0)))
def test_another_point_never_takes_volume_away(points: list[Point], more: Point) -> None:
    assert hypervolume([*points, more], BASELINE) >= hypervolume(points, BASELINE) - 1e-9


def test_the_knee_is_where_little_is_given_up() -> None:
    points = [(1.0, 1.0, 0.50), (2.0, 2.0, 0.95), (100.0, 100.0, 0.96)]
    assert knee_index(points, OBJECTIVES) == 1


def test_the_knee_of_one_point_and_of_equal_points_is_the_first() -> None:
    assert knee_index([(3.0, 3.0, 0.5)], OBJECTIVES) == 0
    assert knee_index([(3.0, 3.0, 0.5)] * 3, OBJECTIVES) == 0


def test_there_is_no_knee_of_nothing() -> None:
    with pytest.raises(ValueError, match="no point"):
        knee_index([], OBJECTIVES)


@given(POINTS.filter(bool), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_knee_does_not_depend_on_units(points: list[Point], size_unit: float, time_unit: float) -> None:
    # Bytes or kilobytes, milliseconds or seconds: the same point, or one exactly as close.
    scaled = [(size * size_unit, time * time_unit, accuracy) for size, time, accuracy in points]
    one, other = knee_index(points, OBJECTIVES), knee_index(scaled, OBJECTIVES)
    assert _distance(points, one) == pytest.approx(_distance(points, other), abs=1e-9)


def _distance(points: list[Point], index: int) -> float:
    columns = np.array([(math.log(size), math.log(time), -accuracy) for size, time, accuracy in points])
    width = np.ptp(columns, axis=0)
    width[width == 0] = 1.0
    return float(np.linalg.norm((columns[index] - columns.min(axis=0)) / width))


@given(POINTS.filter(bool))
def test_no_point_dominates_the_knee(points: list[Point]) -> None:
    knee = points[knee_index(points, OBJECTIVES)]
    assert not any(dominates(other, knee) for other in points)
