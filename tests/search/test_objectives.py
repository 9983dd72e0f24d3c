"""Objectives: bounds read from text, violations, and the one place where a sign is flipped."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karui.search.objectives import (
    LIMITS,
    OBJECTIVES,
    Bound,
    Objective,
    as_losses,
    bounded_limits,
    latency_on,
    objectives_named,
    parse_bound,
    with_bounds,
)

SIZE, LATENCY, ACCURACY = OBJECTIVES
LOAD, MEMORY, ENERGY = LIMITS


@pytest.mark.parametrize(
    ("text", "objective", "expected"),
    [
        ("60KB", SIZE, Bound(60_000)),
        ("1.5 MB", SIZE, Bound(1_500_000)),
        ("2KiB", SIZE, Bound(2_048)),
        (48_000, SIZE, Bound(48_000)),
        ("0.1x", SIZE, Bound(0.1, relative=True)),
        ("0.4ms", LATENCY, Bound(0.4)),
        ("2s", LATENCY, Bound(2_000)),
        ("250us", LATENCY, Bound(0.25)),
        (".3x", LATENCY, Bound(0.3, relative=True)),
        ("50ms", LOAD, Bound(50)),
        ("64MiB", MEMORY, Bound(67_108_864)),
        ("2mJ", ENERGY, Bound(2)),
        ("0.5 J", ENERGY, Bound(500)),
        ("900uJ", ENERGY, Bound(0.9)),
        ("0.5x", ENERGY, Bound(0.5, relative=True)),
        ("97%", ACCURACY, Bound(0.97)),
        (0.97, ACCURACY, Bound(0.97)),
        ("-0.25", ACCURACY, Bound(-0.25)),
    ],
)
def test_bounds_are_read(text: str | float, objective: Objective, expected: Bound) -> None:
    found = parse_bound(text, objective)
    assert found.relative == expected.relative
    assert math.isclose(found.limit, expected.limit)


@pytest.mark.parametrize("text", ["", "fast", "60 KB please", "1e", "--5", "0x10"])
def test_nonsense_is_no_bound(text: str) -> None:
    with pytest.raises(ValueError, match=r"no quantity|unknown unit"):
        parse_bound(text, SIZE)


@pytest.mark.parametrize(("text", "objective"), [("60ms", SIZE), ("60KB", LATENCY), ("3ms", ACCURACY), ("5%", SIZE)])
def test_a_unit_of_another_objective_is_refused(text: str, objective: Objective) -> None:
    with pytest.raises(ValueError, match="unknown unit"):
        parse_bound(text, objective)


@pytest.mark.parametrize("text", ["0", "-3KB", "-1x", 0.0])
def test_a_bound_is_positive(text: str | float) -> None:
    with pytest.raises(ValueError, match="not positive"):
        parse_bound(text, SIZE)


def test_only_what_has_a_bound_is_a_limit() -> None:
    assert bounded_limits({"size_bytes": "2KB", "load_ms": None}) == ()
    (memory,) = bounded_limits({"session_peak_bytes": "2MB", "size_bytes": "2KB"})
    assert memory.violation(3e6, 9e6) == pytest.approx(0.5)


def test_objectives_are_found_again_by_their_names() -> None:
    objectives = (*OBJECTIVES, latency_on("pi5"), LIMITS[2], LIMITS[0])
    names = [objective.name for objective in objectives]
    assert names[3:] == ["latency_ms@pi5", "energy_mj", "load_ms"]
    assert objectives_named(names) == objectives
    for wrong in (names[1:], names[:2], [*names, "loss"], []):
        with pytest.raises(ValueError, match=r"come first|'loss' is no objective"):
            objectives_named(wrong)


def test_a_relative_bound_is_a_share_of_the_baseline() -> None:
    size, latency, accuracy = with_bounds({"size_bytes": "0.5x", "latency_ms": 3.0, "accuracy": None})
    assert size.bound_text(200_000) == "size_bytes <= 100000"
    assert size.violation(150_000, 200_000) == pytest.approx(0.5)
    assert latency.violation(1.5, 10.0) == pytest.approx(-0.5)
    assert accuracy.violation(0.1, 0.9) is None
    assert accuracy.bound_text(0.9) == ""


def test_too_little_accuracy_breaks_a_bound_and_too_much_does_not() -> None:
    (_, _, accuracy) = with_bounds({"accuracy": 0.8})
    assert accuracy.violation(0.6, 0.9) == pytest.approx(0.25)
    assert accuracy.violation(0.8, 0.9) == 0.0
    assert (accuracy.violation(1.0, 0.9) or 0.0) < 0
    assert accuracy.bound_text(0.9) == "accuracy >= 0.8"


def test_losses_turn_accuracy_only() -> None:
    assert as_losses([(10.0, 2.0, 0.9)], OBJECTIVES).tolist() == [[10.0, 2.0, -0.9]]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_missing_number_is_never_ranked(broken: float, column: int) -> None:
    # After a sign flip a missing accuracy would otherwise be the best of all.
    row = [1.0, 1.0, 0.5]
    row[column] = broken
    with pytest.raises(ValueError, match="cannot be ranked"):
        as_losses([row], OBJECTIVES)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_a_violation_is_positive_exactly_beyond_the_bound(value: float, limit: float, baseline: float) -> None:
    for direction in ("minimize", "maximize"):
        objective = Objective("thing", direction, "ms", Bound(limit))
        beyond = value > limit if direction == "minimize" else value < limit
        assert ((objective.violation(value, baseline) or 0.0) > 0) == beyond


# --- metrics that are no share ----------------------------------------------------------------------------------------

METRICS = st.one_of(st.floats(-1e6, -1e-6), st.floats(1e-6, 1e6))


@given(METRICS, st.floats(0.01, 1.0))
def test_a_baseline_keeps_every_bound_that_allows_for_less_than_itself(baseline: float, share: float) -> None:
    (_, _, accuracy) = with_bounds({"accuracy": f"{share!r}x"})
    assert (accuracy.violation(baseline, baseline) or 0.0) <= 0.0


@given(METRICS, st.floats(0.5, 1.0), st.floats(-2.0, 2.0), st.sampled_from([1e-3, 0.1, 100.0, 1e4]))
def test_the_unit_of_a_metric_changes_no_violation(baseline: float, share: float, lost: float, unit: float) -> None:
    (_, _, accuracy) = with_bounds({"accuracy": f"{share!r}x"})
    value = baseline - lost * abs(baseline)
    found, scaled = accuracy.violation(value, baseline), accuracy.violation(unit * value, unit * baseline)
    assert scaled == pytest.approx(found, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("bound", "baseline", "limit"),
    [
        ("0.98x", 0.95, 0.931),
        ("0.98x", 93.0, 91.14),
        ("0.98x", -0.1, -0.102),  # 2 % of the error more
        ("0.98x", 0.0, 0.0),
        ("97%", 0.99, 0.97),
        ("97%", 98.5, 97.0),
        ("97%", 4.0, 0.97),
        ("-0.25", -0.2, -0.25),
    ],
)
def test_a_bound_means_the_same_in_whatever_unit(bound: str, baseline: float, limit: float) -> None:
    (_, _, accuracy) = with_bounds({"accuracy": bound})
    assert accuracy.bound_text(baseline) == f"accuracy >= {limit:g}"
    assert accuracy.violation(limit, baseline) == pytest.approx(0.0, abs=1e-12)
    assert (accuracy.violation(limit - 0.001, baseline) or 0.0) > 0.0


def test_a_bound_of_zero_is_broken_by_shares_of_the_baseline() -> None:
    (_, _, accuracy) = with_bounds({"accuracy": "0"})
    assert accuracy.violation(-0.5, 2.0) == pytest.approx(0.25)
    assert accuracy.violation(-0.5, 0.0) == pytest.approx(0.5)
