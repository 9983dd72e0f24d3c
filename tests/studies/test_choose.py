"""Picking a point: against brute force, and what is said where nothing fits."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.errors import KaruiError, NothingFits
from karui.studies.choosing.choose import Budget, Preference, accuracy_column, pick_point

BASELINE = {"size_bytes": 100_000.0, "latency_ms": 2.0, "accuracy": 0.98, "test_accuracy": 0.9}
Point = tuple[float, float, float]

POINTS = st.lists(
    st.tuples(
        st.integers(1, 9).map(lambda step: 10_000.0 * step),
        st.integers(1, 9).map(lambda step: 0.2 * step),
        st.integers(0, 9).map(lambda step: step / 10),
    ),
    min_size=1,
    max_size=8,
)


def front_of(points: list[Point], accuracy: str = "test_accuracy") -> pd.DataFrame:
    names = [f"p{rank:02d}" for rank in range(1, len(points) + 1)]
    table = pd.DataFrame(points, columns=["size_bytes", "latency_ms", accuracy])
    return table.assign(point=names, candidate=[f"candidate {name}" for name in names])


def values_of(row: pd.Series[Any]) -> Point:
    return float(row["size_bytes"]), float(row["latency_ms"]), float(row["test_accuracy"])


@settings(deadline=None, max_examples=200)
@given(
    points=POINTS,
    limits=st.tuples(*(st.none() | st.integers(1, 9) for _ in range(3))),
    prefer=st.sampled_from(["size", "latency", "accuracy"]),
)
def test_the_pick_is_the_one_that_brute_force_finds(
    points: list[Point], limits: tuple[int | None, int | None, int | None], prefer: Preference
) -> None:
    size = None if limits[0] is None else 10_000.0 * limits[0]
    latency = None if limits[1] is None else 0.2 * limits[1]
    accuracy = None if limits[2] is None else limits[2] / 10
    fitting = [
        point
        for point in points
        if (size is None or point[0] <= size)
        and (latency is None or point[1] <= latency)
        and (accuracy is None or point[2] >= accuracy)
    ]
    budget = Budget(size, latency, accuracy)
    if not fitting:
        with pytest.raises(NothingFits, match="no point of the front keeps this budget"):
            pick_point(front_of(points), budget, prefer, BASELINE)
        return
    order = {
        "size": lambda point: (point[0], -point[2], point[1]),
        "latency": lambda point: (point[1], -point[2], point[0]),
        "accuracy": lambda point: (-point[2], point[1], point[0]),
    }[prefer]
    assert values_of(pick_point(front_of(points), budget, prefer, BASELINE)) == min(fitting, key=order)


@settings(deadline=None, max_examples=100)
@given(points=POINTS)
def test_the_knee_is_the_nearest_to_the_ideal(points: list[Point]) -> None:
    losses = [(math.log(size), math.log(latency), -accuracy) for size, latency, accuracy in points]
    lows, highs = [min(column) for column in zip(*losses, strict=True)], [max(c) for c in zip(*losses, strict=True)]

    def distance(loss: tuple[float, ...]) -> float:
        shares = [
            (value - low) / (high - low) if high > low else 0.0
            for value, low, high in zip(loss, lows, highs, strict=True)
        ]
        return math.hypot(*shares)

    found = values_of(pick_point(front_of(points), Budget(), "knee", BASELINE))
    expected = min(map(distance, losses))
    assert distance((math.log(found[0]), math.log(found[1]), -found[2])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("budget", "picked"),
    [
        (Budget(max_size="0.5x"), "p01"),  # 50 KB
        (Budget(max_size="50KB"), "p01"),
        (Budget(max_size=50_000), "p01"),
        (Budget(max_latency="0.3x"), "p02"),  # 0.6 ms
        (Budget(max_latency="0.0006s"), "p02"),
        (Budget(min_accuracy="95%"), "p03"),
        (Budget(min_accuracy="1.05x"), "p03"),  # of the test accuracy 0.9: 0.945
        (Budget(max_size="60.5KB", min_accuracy=0.7), "p02"),
    ],
)
def test_bounds_are_read_in_units_and_as_shares_of_the_baseline(budget: Budget, picked: str) -> None:
    front = front_of([(50_000, 0.9, 0.6), (60_000, 0.6, 0.8), (90_000, 1.0, 0.95)])
    assert pick_point(front, budget, "size", BASELINE)["point"] == picked


def test_a_share_of_the_accuracy_is_one_of_the_same_split() -> None:
    points = [(50_000.0, 1.0, 0.9)]
    # The baseline has 0.98 on validation and 0.9 on test: a file with 0.9 on test has lost nothing.
    assert pick_point(front_of(points), Budget(min_accuracy="1x"), "size", BASELINE)["point"] == "p01"
    with pytest.raises(NothingFits, match=r"accuracy >= 0\.98"):
        pick_point(front_of(points, "accuracy"), Budget(min_accuracy="1x"), "size", BASELINE)


def test_points_are_judged_by_test_accuracy_where_there_is_one() -> None:
    front = front_of([(1.0, 1.0, 0.5), (2.0, 2.0, 0.9)]).assign(accuracy=[0.99, 0.1])
    assert accuracy_column(front) == "test_accuracy"
    assert pick_point(front, Budget(), "accuracy", BASELINE)["point"] == "p02"
    before = front.drop(columns="test_accuracy")
    assert accuracy_column(before) == "accuracy"
    assert pick_point(before, Budget(), "accuracy", BASELINE)["point"] == "p01"


def test_where_nothing_fits_the_broken_bound_and_the_nearest_are_told() -> None:
    front = front_of([(50_000, 1.0, 0.5), (60_000, 1.0, 0.8), (80_000, 1.0, 0.9), (90_000, 1.0, 0.95)])
    with pytest.raises(NothingFits, match="keeps this budget") as caught:
        pick_point(front, Budget(max_size="40KB", min_accuracy=0.75), "knee", BASELINE)
    message = str(caught.value)
    assert "size_bytes <= 40000, accuracy >= 0.75" in message
    # p01: 25 % too large, a third too wrong; p02: 50 % too large; p03: twice as large.
    assert message.index("p02") < message.index("p01") < message.index("p03")
    assert "p04" not in message
    assert "size_bytes <= 40000 broken by 25.0% (50000); accuracy >= 0.75 broken by 33.3% (0.5)" in message
    assert "p02 (candidate p02): size_bytes <= 40000 broken by 50.0% (60000)" in message
    assert caught.value.exit_code == 1


def test_a_named_point_is_taken_if_it_keeps_the_budget() -> None:
    front = front_of([(50_000, 1.0, 0.5), (60_000, 1.0, 0.8), (80_000, 1.0, 0.9)])
    assert pick_point(front, Budget(), "size", BASELINE, "p03")["point"] == "p03"
    assert pick_point(front, Budget(max_size="80KB"), "size", BASELINE, "p02")["point"] == "p02"
    with pytest.raises(NothingFits, match=r"p02 does not keep this budget(?s:.*)broken by 50\.0% \(60000\)") as caught:
        pick_point(front, Budget(max_size="40KB"), "size", BASELINE, "p02")
    assert "p01" not in str(caught.value)
    with pytest.raises(KaruiError, match=r"no such point(?s:.*)one of p01, p02, p03(?s:.*)got: p3"):
        pick_point(front, Budget(), "size", BASELINE, "p3")
    with pytest.raises(KaruiError, match=r"no such point(?s:.*)which is empty"):
        pick_point(pd.DataFrame(columns=["point"]), Budget(), "knee", BASELINE, "p01")


def test_an_empty_front_is_told() -> None:
    with pytest.raises(NothingFits, match="the front is empty"):
        pick_point(pd.DataFrame(columns=["point"]), Budget(), "knee", BASELINE)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(max_size="3ms"), r"--max-size(?s:.*)'3ms' has an unknown unit(?s:.*)60KB"),
        (Budget(max_latency="fast"), r"--max-latency(?s:.*)'fast' is no quantity(?s:.*)0\.4ms"),
        (Budget(min_accuracy="0x"), r"--min-accuracy(?s:.*)not positive(?s:.*)97%"),
    ],
)
def test_a_bound_that_cannot_be_read_is_told(budget: Budget, message: str) -> None:
    with pytest.raises(KaruiError, match=message):
        pick_point(front_of([(1.0, 1.0, 1.0)]), budget, "knee", BASELINE)
