"""Where rankings flip between targets: by hand, and against counting pairs of targets and files."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from karui.studies.choosing.ranking import describe_flip, front_flips, ranking_flips, target_columns
from karui.studies.commands.views import point_view

NONE = [0.0, 0.0, 0.0]


def test_a_pair_that_changes_places_is_told_with_both_factors() -> None:
    ratios = {"pi5": [0.2, 0.3, 0.9], "phone": [0.5, 0.25, 0.8]}
    flips = ranking_flips(["p01", "p02", "p03"], ratios, {"pi5": NONE, "phone": NONE})
    (flip,) = flips
    assert (flip.one, flip.other, flip.here, flip.there) == ("p01", "p02", "pi5", "phone")
    assert [flip.factor_here, flip.factor_there] == pytest.approx([1.5, 2.0])
    assert describe_flip(flips[0]) == "p01 is 1.50x faster than p02 on pi5, and 2.00x slower on phone"


def test_what_noise_may_have_done_is_no_flip() -> None:
    ratios = {"pi5": [0.2, 0.3], "phone": [0.5, 0.47]}
    # hypot(0.03, 0.04) = 0.05 > 0.03, hypot(0.018, 0.024) = 0.03 is not larger than itself; 0.029 is less.
    for spread, flips in (((0.03, 0.04), 0), ((0.0174, 0.0232), 1)):
        assert len(ranking_flips(["a", "b"], ratios, {"pi5": [0.0, 0.0], "phone": [*spread]})) == flips


def test_what_was_not_measured_flips_nothing() -> None:
    ratios = {"pi5": [0.2, 0.3], "phone": [0.5, math.nan]}
    assert ranking_flips(["a", "b"], ratios, {"pi5": [0.0, 0.0], "phone": [0.0, math.nan]}) == ()


PERMUTATIONS = st.permutations(range(1, 6))


@given(PERMUTATIONS, PERMUTATIONS, PERMUTATIONS)
def test_without_noise_there_are_as_many_flips_as_discordant_pairs(
    one: list[int], two: list[int], three: list[int]
) -> None:
    orders = {"one": one, "two": two, "three": three}
    flips = ranking_flips(
        [*"abcde"], {name: [*map(float, order)] for name, order in orders.items()}, dict.fromkeys(orders, [0.0] * 5)
    )
    discordant = sum(
        (first[i] < first[j]) != (second[i] < second[j])
        for first, second in ((one, two), (one, three), (two, three))
        for i in range(5)
        for j in range(i)
    )
    assert len(flips) == discordant
    for flip in flips:
        here, there = orders[flip.here], orders[flip.there]
        first, second = "abcde".index(flip.one), "abcde".index(flip.other)
        assert flip.factor_here == pytest.approx(here[second] / here[first])
        assert flip.factor_there == pytest.approx(there[first] / there[second])
        assert min(flip.factor_here, flip.factor_there) > 1
    clearest = [min(flip.factor_here, flip.factor_there) for flip in flips]
    assert clearest == sorted(clearest, reverse=True)


def test_a_front_is_read_by_its_columns() -> None:
    columns = {"point": ["p01", "p02"], "latency_ratio": [0.2, 0.3], "latency_ratio_spread": [0.0, 0.0]}
    assert front_flips(pd.DataFrame(columns)) == ()
    for target, values in (("pi5", [0.2, 0.3]), ("phone", [0.5, 0.25])):
        columns |= {
            f"latency_ratio@{target}": values,
            f"latency_ratio@{target}_spread": [0.001, 0.001],
            f"latency_ratio@{target}_count": [20, 20],
        }
    assert [(flip.one, flip.here, flip.there) for flip in front_flips(pd.DataFrame(columns))] == [
        ("p01", "pi5", "phone")
    ]


# --- columns of targets -----------------------------------------------------------------------------------------------

OF_SEVERAL = [
    *("point", "latency_ms", "latency_ms_spread", "latency_ms@pi5", "latency_ms@pi5_spread", "latency_ms@pi5_count"),
    *("latency_ms@phone", "latency_ratio@phone", "latency_ratio@pi5"),
]


def test_each_target_has_a_column_and_the_plain_latency_is_none_of_them() -> None:
    assert target_columns(OF_SEVERAL) == {"pi5": "latency_ms@pi5", "phone": "latency_ms@phone"}
    assert target_columns(["point", "latency_ms"]) == {}


def test_a_point_in_the_terminal_names_each_target_once() -> None:
    point = {"point": "p01", "trial": 3, "candidate": "baseline", "size_bytes": 1000.0, "accuracy": 0.5}
    latencies = {"latency_ratio": 0.5, "latency_ratio@pi5": 0.5, "latency_ratio@phone": 0.25}
    row = pd.Series({**dict.fromkeys(OF_SEVERAL, 2.0), **point, **latencies})
    screen = io.StringIO()
    Console(file=screen, width=100).print(point_view(row))
    told = [line.strip() for line in screen.getvalue().splitlines() if " on p" in line]
    assert told == ["2.000 ± 2.000 ms (2.00x faster) on pi5", "2.000 ms (4.00x faster) on phone"]
