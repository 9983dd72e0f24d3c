"""Timing over inputs, on a clock that only moves when told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.evaluators.timing.over_inputs import FEWEST_PASSES, MOST_PASSES, InputsTiming, summarize, time_over_inputs

MS = 1_000_000


class FakeClock:
    """A clock in nanoseconds, moved on by the work that is timed; keeps who ran which input."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[tuple[str, int]] = []

    def __call__(self) -> int:
        return self.now_ns

    def work(self, name: str, cost_ms: Callable[[int], float]) -> Callable[[int], object]:
        def run(row: int) -> None:
            milliseconds = cost_ms(row)
            self.calls.append((name, row))
            self.now_ns += round(milliseconds * MS)

        return run


def timed(
    reference: Callable[[int], float],
    candidate: Callable[[int], float],
    inputs: int,
    *,
    max_seconds: float = 1e6,
    min_block_ms: float = 3.0,
    clock: FakeClock | None = None,
) -> InputsTiming:
    clock = clock or FakeClock()
    works = clock.work("R", reference), clock.work("C", candidate)
    return time_over_inputs(*works, inputs, max_seconds=max_seconds, min_block_ms=min_block_ms, clock=clock)


def listed(costs: Sequence[float]) -> Callable[[int], float]:
    return lambda row: costs[row]


def test_inputs_that_take_the_slow_way_count_as_often_as_they_take_it() -> None:
    # 30 of 100 inputs go through the whole network and the head, the others leave early.
    timing = timed(lambda _: 2.0, lambda row: 2.2 if row % 10 < 3 else 0.5, 100)
    assert timing.candidate_ms == pytest.approx(0.7 * 0.5 + 0.3 * 2.2)
    assert timing.ratio == pytest.approx(0.505)
    assert (timing.reference_ms, timing.reference_p95_ms, timing.reference_ms_spread) == pytest.approx((2.0, 2.0, 0.0))
    assert (timing.candidate_p95_ms, timing.p95_ratio) == pytest.approx((2.2, 1.1))
    assert (timing.inputs, timing.passes) == (100, MOST_PASSES)


def test_the_tail_is_fast_where_fewer_than_one_in_twenty_are_slow() -> None:
    timing = timed(lambda _: 2.0, lambda row: 2.2 if row < 3 else 0.5, 100)
    assert timing.ratio == pytest.approx((0.97 * 0.5 + 0.03 * 2.2) / 2.0)
    assert timing.p95_ratio == pytest.approx(0.25)


COSTS = st.integers(1, 10_000).map(lambda microseconds: microseconds / 1000)


def by_hand_percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@given(st.lists(st.tuples(COSTS, COSTS), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_steady_inputs_give_their_means_and_percentiles(costs: list[tuple[float, float]]) -> None:
    reference, candidate = [pair[0] for pair in costs], [pair[1] for pair in costs]
    timing = timed(listed(reference), listed(candidate), len(costs))
    assert timing.ratio == pytest.approx(sum(candidate) / sum(reference))
    assert timing.candidate_ms == pytest.approx(sum(candidate) / len(costs))
    tails = by_hand_percentile(candidate, 95), by_hand_percentile(reference, 95)
    assert timing.p95_ratio == pytest.approx(tails[0] / tails[1])


def test_an_interrupt_in_all_but_one_pass_of_an_input_does_not_count() -> None:
    runs: Counter[int] = Counter()

    def interrupted(row: int) -> float:
        runs[row] += 1
        return 1.0 if runs[row] % MOST_PASSES == row % MOST_PASSES else 9.0

    timing = timed(lambda _: 2.0, interrupted, 50, min_block_ms=4.0)
    assert timing.passes == MOST_PASSES
    assert (timing.ratio, timing.p95_ratio, timing.ratio_spread) == pytest.approx((0.5, 0.5, 0.0))


def test_what_others_have_the_core_for_does_not_count() -> None:
    clock = FakeClock()

    def beside_others(cost_ms: Callable[[int], float]) -> Callable[[int], float]:
        return lambda row: cost_ms(row) + others()

    waited_ns = 0

    def others() -> float:
        nonlocal waited_ns
        waited_ns += 7 * MS
        return 7.0

    works = (
        clock.work("R", beside_others(lambda _: 2.0)),
        clock.work("C", beside_others(lambda row: 0.5 if row % 2 else 1.5)),
    )
    timing = time_over_inputs(*works, 50, max_seconds=1e6, min_block_ms=3.0, clock=clock, waited=lambda: waited_ns)
    assert (timing.reference_ms, timing.candidate_ms) == pytest.approx((2.0, 1.0))
    assert (timing.ratio, timing.p95_ratio) == pytest.approx((0.5, 0.75))


def test_drift_of_the_machine_cancels() -> None:
    clock = FakeClock()

    def slowdown() -> float:
        return 1.0 + clock.now_ns / (4_000 * MS)

    def candidate(row: int) -> float:
        return (0.4 if row % 2 else 1.2) * slowdown()

    timing = timed(lambda _: 1.0 * slowdown(), candidate, 300, clock=clock)
    assert slowdown() > 2.0, "the machine must have become clearly slower for this test to say anything"
    assert timing.ratio == pytest.approx(0.8, rel=0.005)


def test_what_a_change_of_files_costs_is_paid_by_no_input_in_every_pass() -> None:
    clock = FakeClock()

    def cost(name: str, warm_ms: float) -> Callable[[int], float]:
        return lambda _: warm_ms if clock.calls and clock.calls[-1][0] == name else warm_ms + 5.0

    timing = timed(cost("R", 1.0), cost("C", 0.5), 60, clock=clock)
    assert (timing.ratio, timing.p95_ratio) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("inputs", [1, 2, 7, 30])
def test_each_pass_runs_every_input_once_and_who_is_first_changes(inputs: int) -> None:
    clock = FakeClock()
    timing = timed(lambda _: 1.0, lambda _: 1.0, inputs, min_block_ms=4.0, max_seconds=0.001, clock=clock)
    assert timing.passes == FEWEST_PASSES, "the time was up at once"
    assert clock.calls[:2] == [("R", 0), ("C", 0)], "one run each to warm up"
    calls = clock.calls[2:]
    assert len(calls) == 2 * inputs * FEWEST_PASSES
    for number in range(FEWEST_PASSES):
        one_pass = calls[2 * inputs * number : 2 * inputs * (number + 1)]
        for name in "RC":
            assert [row for caller, row in one_pass if caller == name] == list(range(inputs))
        assert one_pass[0][0] == "RC"[number % 2]
        blocks = [len(list(block)) for _, block in groupby(one_pass, key=lambda call: call[0])]
        assert max(blocks) <= 8, "blocks of at most four, and two meet where the order changes"


def test_time_bounds_the_passes() -> None:
    # Warming up takes 50 runs of 2 ms and 60 of 1 ms, a pass 300 ms: the seventh begins at 1.96 s.
    timing = timed(lambda _: 2.0, lambda _: 1.0, 100, max_seconds=2.0)
    assert timing.passes == 7
    assert timed(lambda _: 2.0, lambda _: 1.0, 100, max_seconds=0.1).passes == FEWEST_PASSES
    assert timed(lambda _: 2.0, lambda _: 1.0, 100, max_seconds=1e6).passes == MOST_PASSES


def test_the_interval_is_that_of_a_share_of_slow_inputs() -> None:
    inputs, share, early, late = 1_000, 0.3, 0.5, 2.5
    timing = timed(lambda _: 2.0, lambda row: late if row % 10 < 3 else early, inputs)
    deviation = (late - early) * np.sqrt(share * (1 - share) / inputs)
    assert timing.ratio_spread == pytest.approx(1.96 * deviation / 2.0, rel=0.15)
    assert timing.p95_ratio_spread == pytest.approx(0.0)


def test_inputs_that_are_slow_for_both_leave_the_ratio_certain() -> None:
    times = np.random.default_rng(0).uniform(1.0, 3.0, size=(5, 200))
    timing = summarize(times, 0.6 * times)
    assert (timing.ratio, timing.p95_ratio) == pytest.approx((0.6, 0.6))
    assert (timing.ratio_spread, timing.p95_ratio_spread) == pytest.approx((0.0, 0.0))
    assert timing.reference_ms_spread > 0.01


def test_timing_survives_json() -> None:
    timing = timed(lambda _: 2.0, lambda row: 1.0 + row, 5)
    assert InputsTiming(**timing.to_dict()) == timing


def test_no_inputs_cannot_be_timed() -> None:
    with pytest.raises(ValueError, match="inputs: at least one expected, got 0"):
        timed(lambda _: 1.0, lambda _: 1.0, 0)
