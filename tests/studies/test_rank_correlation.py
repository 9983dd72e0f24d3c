"""Kendall's tau-b against brute force, scipy and hand-made cases."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from karui.studies.certifying.rank_correlation import kendall_tau

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20)


@settings(deadline=None)
@given(PAIRS)
def test_it_agrees_with_brute_force_and_with_scipy(pairs: list[tuple[int, int]]) -> None:
    one, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    alike = opposed = tied_one = tied_other = count = 0
    for first, second in combinations(pairs, 2):
        product = (first[0] - second[0]) * (first[1] - second[1])
        alike, opposed, count = alike + (product > 0), opposed + (product < 0), count + 1
        tied_one, tied_other = tied_one + (first[0] == second[0]), tied_other + (first[1] == second[1])
    found = kendall_tau(one, other)
    if tied_one == count or tied_other == count:
        assert found is None
        return
    expected = (alike - opposed) / math.sqrt((count - tied_one) * (count - tied_other))
    assert found == pytest.approx(expected)
    assert found == pytest.approx(float(kendalltau(one, other).statistic))


def test_the_same_order_is_one_and_the_opposite_minus_one() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 90]) == 1.0
    assert kendall_tau([1, 2, 3], [9, 5, 1]) == -1.0
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5]])
def test_where_there_is_no_ranking_there_is_no_number(values: list[float]) -> None:
    assert kendall_tau(values, values) is None


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="as many values on both sides"):
        kendall_tau([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="cannot be ranked"):
        kendall_tau([1.0, math.nan], [1.0, 2.0])
