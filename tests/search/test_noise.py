"""Dominance beyond noise against brute force and its laws; probabilities against closed forms and a twin."""

from __future__ import annotations

import math
from itertools import permutations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.search.objectives import OBJECTIVES
from karui.search.statistics.front import pareto_mask
from karui.search.statistics.noise import (
    RESAMPLES,
    SPREAD_PER_DEVIATION,
    dominated_beyond_noise,
    edge_of_front,
    front_probability,
    near_dominated,
)

Row = tuple[float, float, float]
TIME = OBJECTIVES[1:2]
TOLERANCE = 4 * 0.5 / math.sqrt(RESAMPLES)
"""Four standard deviations of a share of so many draws, at most."""

ROW = st.tuples(
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 6)),
    st.tuples(st.just(0), st.integers(0, 3), st.integers(0, 3)),
)
ROWS = st.lists(ROW, max_size=12)


def split(rows: list[tuple[Row, Row]]) -> tuple[list[Row], list[Row]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def beats(one: tuple[Row, Row], other: tuple[Row, Row]) -> bool:
    """Whether the first dominates the second beyond noise, as the definition says it, number by number."""
    gains = []
    for column, sign in enumerate((1, 1, -1)):
        gain = sign * (other[0][column] - one[0][column])
        noise = math.sqrt(one[1][column] ** 2 + other[1][column] ** 2)
        if gain < noise:
            return False
        gains.append(gain)
    return any(gain > 0 for gain in gains)


# --- dominated beyond noise -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ROWS)
def test_who_is_dominated_beyond_noise_agrees_with_brute_force(rows: list[tuple[Row, Row]]) -> None:
    found = dominated_beyond_noise(*split(rows), OBJECTIVES)
    assert found.tolist() == [any(beats(other, row) for other in rows) for row in rows]


@settings(deadline=None)
@given(ROWS)
def test_without_noise_it_is_plain_dominance(rows: list[tuple[Row, Row]]) -> None:
    values = sorted({row[0] for row in rows})
    found = dominated_beyond_noise(values, np.zeros((len(values), 3)), OBJECTIVES)
    assert found.tolist() == (~pareto_mask(values, OBJECTIVES)).tolist()


@settings(deadline=None)
@given(ROWS)
def test_nobody_on_the_plain_front_is_dominated_beyond_noise(rows: list[tuple[Row, Row]]) -> None:
    values, spreads = split(rows)
    assert not (dominated_beyond_noise(values, spreads, OBJECTIVES) & pareto_mask(values, OBJECTIVES)).any()


@settings(deadline=None)
@given(st.lists(ROW, min_size=3, max_size=3))
def test_it_is_a_strict_partial_order(rows: list[tuple[Row, Row]]) -> None:
    def dominates(one: int, other: int) -> bool:
        values, spreads = split([rows[one], rows[other]])
        return bool(dominated_beyond_noise(values, spreads, OBJECTIVES)[1])

    for one, other, third in permutations(range(3)):
        assert not dominates(one, one)
        assert not (dominates(one, other) and dominates(other, one))
        assert not (dominates(one, other) and dominates(other, third)) or dominates(one, third)


@pytest.mark.parametrize(("gap", "dominated"), [(0.49, False), (0.51, True)])
def test_latency_counts_by_the_root_of_the_squares(gap: float, dominated: bool) -> None:
    # 0.3 and 0.4 make 0.5; the sizes differ by a byte, which is exact, the accuracies by far more than their noise
    values = [(100.0, 5.0, 0.9), (101.0, 5.0 + gap, 0.5)]
    found = dominated_beyond_noise(values, [(0.0, 0.3, 0.01), (0.0, 0.4, 0.01)], OBJECTIVES)
    assert found.tolist() == [False, dominated]


@settings(deadline=None)
@given(ROWS.filter(bool))
def test_more_noise_never_dominates_more(rows: list[tuple[Row, Row]]) -> None:
    values, spreads = split(rows)
    before = dominated_beyond_noise(values, spreads, OBJECTIVES)
    after = dominated_beyond_noise(values, 1.0 + np.asarray(spreads, dtype=float), OBJECTIVES)
    assert not (after & ~before).any()


def test_many_points_are_compared_in_parts_as_all_at_once() -> None:
    chance = np.random.default_rng(0)
    values = chance.random((700, 3))
    spreads = 0.2 * chance.random((700, 3))
    found = dominated_beyond_noise(values, spreads, OBJECTIVES)
    losses = values * (1, 1, -1)
    gaps = losses[:, None] - losses
    expected = np.any(np.all(gaps >= np.sqrt(spreads[:, None] ** 2 + spreads**2), axis=2), axis=1)
    assert found.tolist() == expected.tolist()
    assert 0 < expected.sum() < 700


# --- who covers whom --------------------------------------------------------------------------------------------------

SLOW_FOR_NOTHING = [(20.0, 1.0, 0.950), (20.0, 5.6, 0.951)]
"""5.6x slower for 0.1 points of accuracy."""


def test_plain_dominance_keeps_a_slow_point_that_noise_covers() -> None:
    spreads = [(0.0, 0.03, 0.01), (0.0, 0.17, 0.01)]
    assert pareto_mask(SLOW_FOR_NOTHING, OBJECTIVES).all()
    assert near_dominated(SLOW_FOR_NOTHING, spreads, OBJECTIVES) == (None, 0)
    assert near_dominated(SLOW_FOR_NOTHING, np.zeros((2, 3)), OBJECTIVES) == (None, None), (
        "a gain that is certain counts"
    )


def test_a_smaller_file_is_never_covered_by_a_larger_one() -> None:
    values = [(21.0, 1.0, 0.96), (20.0, 5.6, 0.95)]
    assert near_dominated(values, [(0.0, 0.03, 0.02)] * 2, OBJECTIVES) == (None, None)


def test_a_few_bytes_are_no_reason_to_give_up_what_may_be_a_gain_in_two() -> None:
    values = [(20.00, 1.00, 0.95), (20.01, 0.99, 0.96)]
    assert near_dominated(values, [(0.0, 0.03, 0.02)] * 2, OBJECTIVES) == (None, None)


def test_equal_points_do_not_cover_each_other() -> None:
    assert near_dominated([(1.0, 1.0, 0.5)] * 3, [(0.0, 0.1, 0.1)] * 3, OBJECTIVES) == (None, None, None)


def test_of_many_small_gains_that_add_up_the_first_certain_one_is_kept() -> None:
    # each is larger, slower, and 1 point better than the one before, and 2 points are beyond the noise
    values = [(10.0 * step, 1.0 * step, 0.01 * step) for step in range(1, 6)]
    spreads = [(0.0, 0.1, 0.019 / math.sqrt(2))] * 5
    assert near_dominated(values, spreads, OBJECTIVES) == (None, 0, None, 2, None)


def covers(other: tuple[Row, Row], row: tuple[Row, Row]) -> bool:
    """Whether the first covers the second, as the definition says it, number by number."""
    worse = alike = 0
    for column, sign in enumerate((1, 1, -1)):
        gain = sign * (other[0][column] - row[0][column])
        noise = math.sqrt(other[1][column] ** 2 + row[1][column] ** 2)
        if gain > 0 and gain >= noise:
            return False
        worse += gain < 0 and -gain >= noise
        alike += gain == 0 and noise == 0
    return worse >= 1 and worse + alike >= 2


@settings(deadline=None)
@given(ROWS)
def test_who_covers_is_uncovered_and_who_is_not_covered_could_not_be(rows: list[tuple[Row, Row]]) -> None:
    found = near_dominated(*split(rows), OBJECTIVES)
    order = sorted(range(len(rows)), key=lambda index: (rows[index][0][0], rows[index][0][1], -rows[index][0][2]))
    for place, index in enumerate(order):
        before = [earlier for earlier in order[:place] if found[earlier] is None]
        able = [earlier for earlier in before if covers(rows[earlier], rows[index])]
        assert found[index] == (able[0] if able else None)


@settings(deadline=None)
@given(ROWS)
def test_who_is_dominated_beyond_noise_is_covered(rows: list[tuple[Row, Row]]) -> None:
    values, spreads = split(rows)
    found = near_dominated(values, spreads, OBJECTIVES)
    kept = [row for row, covering in zip(rows, found, strict=True) if covering is None]
    assert not any(beats(one, other) for one in kept for other in kept)


# --- probability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0])
def test_of_two_points_with_one_noisy_objective_the_faster_is_so_likely_faster(gap: float) -> None:
    deviations = (0.3, 0.4)
    spreads = [(SPREAD_PER_DEVIATION * deviation,) for deviation in deviations]
    found = front_probability([(5.0,), (5.0 + 0.5 * gap,)], spreads, TIME)
    expected = NormalDist().cdf(gap)  # 0.3 and 0.4 make 0.5
    assert found.tolist() == pytest.approx([expected, 1 - expected], abs=TOLERANCE)


def test_of_three_alike_each_is_the_fastest_a_third_of_the_time() -> None:
    found = front_probability([(5.0,)] * 3, [(1.0,)] * 3, TIME)
    assert found.tolist() == pytest.approx([1 / 3] * 3, abs=TOLERANCE)
    assert found.sum() == pytest.approx(1.0), "one of them is"


def test_a_smaller_file_that_is_as_good_leaves_the_other_three_quarters() -> None:
    # the larger one belongs to the front unless it is both slower and less accurate in the draw
    found = front_probability([(1.0, 5.0, 0.5), (2.0, 5.0, 0.5)], [(0.0, 1.0, 0.1)] * 2, OBJECTIVES)
    assert found[0] == 1.0
    assert found[1] == pytest.approx(0.75, abs=TOLERANCE)


@settings(deadline=None)
@given(ROWS)
def test_without_noise_the_probability_is_the_front_itself(rows: list[tuple[Row, Row]]) -> None:
    values, _ = split(rows)
    found = front_probability(values, np.zeros((len(values), 3)), OBJECTIVES, resamples=3)
    assert found.tolist() == pareto_mask(values, OBJECTIVES).astype(float).tolist()


def test_probabilities_agree_with_a_twin_that_draws_and_compares_one_by_one() -> None:
    chance = np.random.default_rng(5)
    values = np.column_stack([chance.integers(1, 9, 14), chance.random(14), chance.random(14)])
    spreads = np.column_stack([np.zeros(14), 0.4 * chance.random(14), 0.4 * chance.random(14)])
    draws, counts = np.random.default_rng(6), np.zeros(14)
    for _ in range(800):
        drawn = draws.normal(values, spreads / 1.96) * (1, 1, -1)
        for one in range(14):
            counts[one] += not any(
                (drawn[other] <= drawn[one]).all() and (drawn[other] < drawn[one]).any() for other in range(14)
            )
    found = front_probability(values, spreads, OBJECTIVES)
    assert found == pytest.approx(counts / 800, abs=4 * 0.5 * math.sqrt(1 / 800 + 1 / RESAMPLES))
    assert ((found > 0.05) & (found < 0.95)).sum() >= 5, "there is something to compare"


def test_who_is_out_of_reach_takes_no_chance_from_others_and_has_none() -> None:
    near = [(1.0, 5.0, 0.5), (2.0, 5.1, 0.5)]
    spreads = [(0.0, 0.2, 0.05)] * 2
    far = [(3.0, 50.0, 0.1)] * 40
    found = front_probability([*near, *far], [*spreads, *[(0.0, 0.2, 0.05)] * 40], OBJECTIVES)
    assert found[:2].tolist() == front_probability(near, spreads, OBJECTIVES).tolist()
    assert not found[2:].any()


def test_the_same_seed_gives_the_same_probabilities() -> None:
    points, spreads = [(5.0,), (5.1,)], [(0.2,), (0.2,)]
    found = [front_probability(points, spreads, TIME, seed=seed).tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("spreads", "message"),
    [([(0.1,)], "a spread for each"), ([(0.1,), (-0.1,)], "negative"), ([(0.1,), (math.nan,)], "not finite")],
)
def test_a_spread_that_says_nothing_is_refused(spreads: list[tuple[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        front_probability([(5.0,), (6.0,)], spreads, TIME)


def test_a_missing_value_is_never_ranked() -> None:
    with pytest.raises(ValueError, match="cannot be ranked"):
        dominated_beyond_noise([(5.0,), (math.nan,)], [(0.1,), (0.1,)], TIME)


@pytest.mark.parametrize("function", [dominated_beyond_noise, near_dominated, front_probability])
def test_of_nothing_there_is_nothing(function: object) -> None:
    assert len(function([], [], OBJECTIVES)) == 0  # type: ignore[operator]


# --- the edge ---------------------------------------------------------------------------------------------------------


def test_the_edge_is_who_is_dominated_within_the_noise_only_likeliest_first() -> None:
    values = [
        (10.0, 1.00, 0.90),  # on the front
        (11.0, 1.01, 0.89),  # dominated, by less than the noise
        (11.0, 1.00, 0.90),  # dominated by its size alone
        (12.0, 9.00, 0.10),  # dominated by far
        (13.0, 0.50, 0.95),  # on the front
    ]
    spreads = [(0.0, 0.05, 0.02)] * 5
    assert edge_of_front(values, spreads, OBJECTIVES, most=5) == [2, 1]
    assert edge_of_front(values, spreads, OBJECTIVES, most=1) == [2]
    assert edge_of_front(values, np.zeros((5, 3)), OBJECTIVES, most=5) == []
    assert edge_of_front(values, spreads, OBJECTIVES, most=5, probability=0.99) == []


@settings(deadline=None, max_examples=15)
@given(ROWS)
def test_nobody_on_the_edge_is_on_the_front_or_beyond_the_noise(rows: list[tuple[Row, Row]]) -> None:
    values, spreads = split(rows)
    edge = edge_of_front(values, spreads, OBJECTIVES, most=99)
    assert not pareto_mask(values, OBJECTIVES)[edge].any()
    assert not any(beats(other, rows[index]) for index in edge for other in rows)


def test_the_edge_is_asked_of_row_by_row_only_near_the_front() -> None:
    # all but the last are within two spreads of the first; paired, the third is beaten for certain, the second is not
    values = [(1.0, 1.0, 0.95), (2.0, 1.0, 0.949), (3.0, 1.0, 0.94), (4.0, 9.0, 0.1)]
    spreads = [(0.0, 0.0, 0.02)] * 4
    known = np.full((3, 3, 3), np.nan)
    known[:, :, 2] = 0.004 * (1 - np.eye(3))
    asked: list[list[int]] = []

    def differences(indices: list[int]) -> np.ndarray:
        asked.append(indices)
        return known

    assert edge_of_front(values, spreads, OBJECTIVES, most=9) == [1, 2]
    assert edge_of_front(values, spreads, OBJECTIVES, most=9, differences=differences) == [1]
    assert edge_of_front(values, spreads, OBJECTIVES, most=9, differences=lambda _: None) == [1, 2]
    assert asked == [[0, 1, 2]]


# --- differences that are known better than the values ----------------------------------------------------------------

PAIRS = st.lists(st.tuples(ROW, st.lists(st.integers(-3, 3), min_size=3, max_size=3)), max_size=8)


def known_differences(places: list[list[int]], column: int = 2) -> np.ndarray:
    """Spreads of differences that are distances of places: what deviations of differences are like."""
    found = np.full((len(places), len(places), 3), np.nan)
    at = np.asarray(places, dtype=float).reshape(-1, 3)
    found[:, :, column] = np.linalg.norm(at[:, None] - at, axis=2)
    return found


@settings(deadline=None)
@given(PAIRS)
def test_where_a_difference_is_known_it_decides(pairs: list[tuple[tuple[Row, Row], list[int]]]) -> None:
    rows, places = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    known = known_differences(places)
    found = dominated_beyond_noise(*split(rows), OBJECTIVES, known)

    def beats_by_it(one: int, other: int) -> bool:
        # accuracy beyond the known noise, and then as if it had none
        gain = rows[one][0][2] - rows[other][0][2]
        if gain < known[one, other, 2]:
            return False
        certain = [(row[0], (*row[1][:2], 0)) for row in (rows[one], rows[other])]
        return beats(*certain)

    expected = [any(beats_by_it(one, other) for one in range(len(rows)) if one != other) for other in range(len(rows))]
    assert found.tolist() == expected


@settings(deadline=None)
@given(PAIRS)
def test_who_covers_by_known_differences_is_there_to_be_chosen(
    pairs: list[tuple[tuple[Row, Row], list[int]]],
) -> None:
    values, spreads = split([pair[0] for pair in pairs])
    known = known_differences([pair[1] for pair in pairs])
    found = near_dominated(values, spreads, OBJECTIVES, known)
    for point, by in enumerate(found):
        if by is not None:
            assert found[by] is None
            assert values[point][2] - values[by][2] <= known[point, by, 2]


def test_differences_that_are_those_of_independent_values_change_nothing() -> None:
    chance = np.random.default_rng(3)
    values = np.column_stack([chance.uniform(1, 2, 12), chance.uniform(1, 2, 12), chance.uniform(0.8, 1, 12)])
    spreads = np.column_stack([np.zeros(12), np.full(12, 0.1), chance.uniform(0.01, 0.05, 12)])
    same = np.hypot(spreads[:, None], spreads)
    same[np.arange(12), np.arange(12)] = 0.0
    for function in (dominated_beyond_noise, near_dominated):
        assert list(function(values, spreads, OBJECTIVES, same)) == list(function(values, spreads, OBJECTIVES))
    alone, together = (front_probability(values, spreads, OBJECTIVES, each) for each in (None, same))
    assert np.abs(alone - together).max() < TOLERANCE


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.04])
def test_of_two_on_the_same_rows_the_probability_is_that_of_their_difference(noise: float) -> None:
    # as large and as fast as each other, one 0.01 better; both known to 0.03 only
    values, spreads = [(1.0, 1.0, 0.90), (1.0, 1.0, 0.91)], [(0.0, 0.0, 0.03)] * 2
    known = np.full((2, 2, 3), np.nan)
    known[:, :, 2] = [[0.0, noise], [noise, 0.0]]
    found = front_probability(values, spreads, OBJECTIVES, known)
    better = NormalDist().cdf(0.01 / (noise / SPREAD_PER_DEVIATION))
    assert found == pytest.approx([1 - better, better], abs=TOLERANCE)


def test_rows_tell_apart_what_two_intervals_do_not() -> None:
    values, spreads = [(1.0, 1.0, 0.95), (2.0, 1.0, 0.94)], [(0.0, 0.0, 0.02)] * 2
    known = np.full((2, 2, 3), np.nan)
    known[:, :, 2] = [[0.0, 0.005], [0.005, 0.0]]
    assert dominated_beyond_noise(values, spreads, OBJECTIVES).tolist() == [False, False]
    assert dominated_beyond_noise(values, spreads, OBJECTIVES, known).tolist() == [False, True]
