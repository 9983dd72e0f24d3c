"""Averages of repeated measurements, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.evaluators.measurement import Measurement
from karui.evaluators.timing.repeated import average


def measured(value: float, spread: float, count: int = 10) -> Measurement:
    return Measurement("latency_ms", value, "ms", spread, count, {"threads": 1})


def test_one_is_itself() -> None:
    assert average([measured(2.0, 0.1)]) == measured(2.0, 0.1)


def test_of_two_that_agree_the_more_certain_counts_more() -> None:
    found = average([measured(2.0, 0.1), measured(2.05, 0.2, 30)])
    assert found.value == pytest.approx((4 * 2.0 + 2.05) / 5)
    assert found.spread == pytest.approx(0.2 / math.sqrt(5))
    assert (found.count, found.conditions) == (40, {"threads": 1, "repeats": 2})


def test_where_they_differ_by_more_than_they_know_the_mean_does_not_know_it_either() -> None:
    # two values 2 ms apart, each said to be known to 0.01: the deviation of their mean is half their distance
    found = average([measured(2.0, 0.01), measured(4.0, 0.01)])
    assert found.value == pytest.approx(3.0)
    assert found.spread == pytest.approx(1.96 * 1.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1, 9), st.floats(0.01, 1)), min_size=2, max_size=6))
def test_the_mean_lies_between_and_its_spread_is_that_of_the_weights_at_least(pairs: list[tuple[float, float]]) -> None:
    found = average([measured(*pair) for pair in pairs])
    values, spreads = np.array(pairs).T
    assert values.min() - 1e-9 <= found.value <= values.max() + 1e-9
    assert found.value == pytest.approx(np.average(values, weights=spreads**-2.0))
    assert found.spread >= (spreads**-2.0).sum() ** -0.5 * (1 - 1e-9)


def test_repeats_of_one_normal_distribution_come_with_its_standard_error() -> None:
    chance = np.random.default_rng(0)
    found = average([measured(value, 1.96 * 0.3) for value in chance.normal(5.0, 0.3, 400)])
    assert found.value == pytest.approx(5.0, abs=4 * 0.3 / 20)
    assert found.spread == pytest.approx(1.96 * 0.3 / 20, rel=0.15)


def test_without_a_spread_all_count_alike_and_the_largest_stays() -> None:
    found = average([measured(2.0, 0.0), measured(3.0, 0.1)])
    assert (found.value, found.spread) == (2.5, 0.1)


@pytest.mark.parametrize("some", [[], [measured(1.0, 0.1), Measurement("load_ms", 1.0, "ms")]])
def test_what_is_not_of_one_thing_has_no_mean(some: list[Measurement]) -> None:
    with pytest.raises(ValueError, match="measurements of one thing"):
        average(some)
