"""The timing loop and its statistics, on a clock that only moves when told to."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karui.evaluators.timing.alternating import (
    PairTiming,
    TimingSettings,
    median_with_spread,
    never_waits,
    time_interleaved,
    waiting_clock,
    warm_up,
)

MS = 1_000_000


class FakeClock:
    """A clock in nanoseconds, moved on by the work that is timed; keeps the order of the work."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def work(self, name: str, cost_ms: Callable[[], float]) -> Callable[[], object]:
        def run() -> None:
            self.calls.append(name)
            self.now_ns += round(cost_ms() * MS)

        return run

    def steady(self, name: str, cost_ms: float) -> Callable[[], object]:
        return self.work(name, lambda: cost_ms)


def exactly(pairs: int, **changes: float) -> TimingSettings:
    """Settings under which just this (even) number of pairs is timed."""
    return TimingSettings(min_blocks=pairs, max_blocks=pairs, max_seconds=changes.pop("max_seconds", 1e6), **changes)


def test_steady_work_gives_its_exact_times() -> None:
    clock = FakeClock()
    timing = time_interleaved(clock.steady("R", 2.0), clock.steady("C", 0.5), exactly(10, min_block_ms=5), clock)
    assert (timing.reference_ms, timing.candidate_ms, timing.candidate_p95_ms) == pytest.approx((2.0, 0.5, 0.5))
    assert (timing.ratio, timing.ratio_spread, timing.reference_ms_spread) == pytest.approx((0.25, 0.0, 0.0))
    assert (timing.pairs, timing.runs_per_block) == (10, (3, 10))


@given(reference_us=st.integers(1, 10**6), candidate_us=st.integers(1, 10**6))
@settings(max_examples=30, deadline=None)
def test_ratio_is_the_quotient_of_any_two_steady_times(reference_us: int, candidate_us: int) -> None:
    clock = FakeClock()
    works = clock.steady("R", reference_us / 1000), clock.steady("C", candidate_us / 1000)
    timing = time_interleaved(*works, exactly(4, min_block_ms=0.05), clock)
    assert timing.ratio == pytest.approx(candidate_us / reference_us)
    assert timing.ratio_spread == pytest.approx(0.0, abs=1e-9)


def test_blocks_alternate_and_swap_their_order() -> None:
    clock = FakeClock()
    time_interleaved(clock.steady("R", 10.0), clock.steady("C", 10.0), exactly(4, min_block_ms=1), clock)
    assert "".join(clock.calls).endswith("RCCR" * 2)


def test_drift_of_the_machine_cancels() -> None:
    clock = FakeClock()

    def slowdown() -> float:
        return 1.0 + clock.now_ns / (400 * MS)

    works = clock.work("R", lambda: 1.0 * slowdown()), clock.work("C", lambda: 0.8 * slowdown())
    timing = time_interleaved(*works, exactly(100, min_block_ms=1), clock)
    assert slowdown() > 1.3, "the machine must have become clearly slower for this test to say anything"
    assert timing.ratio == pytest.approx(0.8, rel=1e-3)


def test_whatever_comes_second_gains_nothing() -> None:
    clock = FakeClock()

    def cost() -> float:
        return 0.9 if len(clock.calls) % 2 == 0 else 1.0

    timing = time_interleaved(clock.work("R", cost), clock.work("C", cost), exactly(50, min_block_ms=0.5), clock)
    assert timing.runs_per_block == (1, 1)
    assert timing.ratio == pytest.approx((0.9 / 1.0 + 1.0 / 0.9) / 2), "in a fixed order it would be 0.9 or 1.11"


def test_an_occasional_slow_block_does_not_matter() -> None:
    clock = FakeClock()
    candidate_runs = itertools.count()
    works = (
        clock.steady("R", 1.0),
        clock.work("C", lambda: 50.0 if next(candidate_runs) % 10 == 7 else 1.0),
    )
    timing = time_interleaved(*works, exactly(40, min_block_ms=1), clock)
    assert timing.ratio == pytest.approx(1.0)
    assert timing.candidate_ms == pytest.approx(1.0)
    assert timing.candidate_p95_ms == pytest.approx(50.0), "the tail shows in the 95th percentile"


def test_a_slow_run_within_a_block_does_not_matter() -> None:
    clock = FakeClock()
    candidate_runs = itertools.count()
    works = clock.steady("R", 1.0), clock.work("C", lambda: 30.0 if next(candidate_runs) % 5 == 4 else 1.0)
    timing = time_interleaved(*works, exactly(10, min_block_ms=20), clock)
    assert timing.ratio == pytest.approx(1.0)
    assert timing.ratio_spread == pytest.approx(0.0, abs=1e-9)


def _noisy(seed: int, sigma: float) -> Callable[[], float]:
    generator = np.random.default_rng(seed)
    return lambda: float(generator.lognormal(0.0, sigma))


def _scaled(factor: float, cost: Callable[[], float]) -> float:
    return factor * cost()


def test_timing_stops_once_the_interval_is_narrow() -> None:
    pairs = []
    for sigma in (0.0, 0.05, 0.2):
        clock, noise = FakeClock(), _noisy(1, sigma)
        works = clock.work("R", noise), clock.work("C", noise)
        limits = TimingSettings(10, 500, target_relative_interval=0.02, max_seconds=1e6, min_block_ms=0.1)
        timing = time_interleaved(*works, limits, clock)
        pairs.append(timing.pairs)
        assert timing.pairs == 500 or timing.ratio_spread <= 0.02 * timing.ratio
    assert pairs[0] == 10
    assert 10 < pairs[1] < pairs[2], "more noise needs more pairs"


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        clock, noise = FakeClock(), _noisy(seed, 0.1)
        works = clock.work("R", noise), clock.work("C", partial(_scaled, 0.7, noise))
        timing = time_interleaved(*works, exactly(40, min_block_ms=0.1), clock)
        held += abs(timing.ratio - 0.7) <= timing.ratio_spread
    assert held >= 50, "of 60 intervals of 95 % fewer than 50 hold the truth with probability below 1 in 1,000"


@given(
    min_blocks=st.integers(2, 30),
    extra_blocks=st.integers(0, 30),
    max_seconds=st.floats(0.001, 1.0),
    cost_ms=st.floats(0.1, 50.0),
)
@settings(max_examples=40, deadline=None)
def test_the_number_of_pairs_stays_within_its_bounds(
    min_blocks: int, extra_blocks: int, max_seconds: float, cost_ms: float
) -> None:
    clock = FakeClock()
    limits = TimingSettings(min_blocks, min_blocks + extra_blocks, 1e-9, max_seconds, min_block_ms=0.1)
    timing = time_interleaved(clock.steady("R", cost_ms), clock.steady("C", cost_ms), limits, clock)
    assert timing.pairs % 2 == 0
    assert min_blocks <= timing.pairs <= min_blocks + extra_blocks + 1


def test_time_runs_out_but_never_before_the_fewest_blocks() -> None:
    clock, noise = FakeClock(), _noisy(3, 0.5)
    works = clock.work("R", partial(_scaled, 100, noise)), clock.work("C", partial(_scaled, 100, noise))
    timing = time_interleaved(*works, TimingSettings(6, 1000, 1e-6, max_seconds=0.3, min_block_ms=1), clock)
    assert timing.pairs == 6


def test_warm_up_runs_until_the_time_no_longer_falls() -> None:
    clock = FakeClock()
    costs = iter([100.0, 60.0, 30.0, 10.0, 5.0, 4.0])
    last = warm_up(clock.work("C", lambda: next(costs, 4.0)), TimingSettings(max_seconds=1e6), clock)
    assert last == pytest.approx(4.0)
    assert len(clock.calls) == 9


def test_warm_up_is_bounded() -> None:
    clock = FakeClock()
    assert warm_up(clock.steady("C", 5_000.0), TimingSettings(max_seconds=1.0), clock) == pytest.approx(5_000.0)
    assert len(clock.calls) == 1, "one run that takes longer than the warm-up may is enough"
    falling = FakeClock()
    costs = (100.0 * 0.9**index for index in itertools.count())
    warm_up(falling.work("C", lambda: next(costs)), TimingSettings(max_seconds=4.0), falling)
    # 100 (1 + 0.9 + ... + 0.9^(n - 1)) = 1000 (1 - 0.9^n) reaches the 600 ms of the warm-up at n = 9.
    assert len(falling.calls) == 9


def test_runs_of_microseconds_warm_up_for_two_blocks_at_least() -> None:
    clock = FakeClock()
    assert warm_up(clock.steady("C", 0.01), TimingSettings(min_block_ms=2.995), clock) == pytest.approx(0.01)
    assert len(clock.calls) == 600


class SharedCore(FakeClock):
    """A core that another process has for every other while: so long, and then ours for so long."""

    def __init__(self, ours_ms: float, theirs_ms: float) -> None:
        super().__init__()
        self.waited_ns = 0
        self._ours_ns, self._theirs_ns = round(ours_ms * MS), round(theirs_ms * MS)
        self._left_ns = self._ours_ns

    def take(self, needed_ns: int) -> None:
        """Have the core for so long, the others coming between."""
        while needed_ns >= self._left_ns:
            needed_ns -= self._left_ns
            self.now_ns += self._left_ns + self._theirs_ns
            self.waited_ns += self._theirs_ns
            self._left_ns = self._ours_ns
        self._left_ns -= needed_ns
        self.now_ns += needed_ns

    def steady(self, name: str, cost_ms: float) -> Callable[[], object]:
        return lambda: self.take(round(cost_ms * MS))


@pytest.mark.parametrize("between_ns", [0, 1_000])
@given(
    reference_ms=st.floats(0.05, 20.0),
    candidate_ms=st.floats(0.05, 20.0),
    ours_ms=st.floats(1.0, 5.0),
    theirs_ms=st.floats(0.0, 50.0),
)
@settings(max_examples=30, deadline=None)
def test_what_others_have_the_core_for_does_not_count(
    between_ns: int, reference_ms: float, candidate_ms: float, ours_ms: float, theirs_ms: float
) -> None:
    core = SharedCore(ours_ms, theirs_ms)

    def look() -> int:
        core.take(between_ns)
        return core.now_ns

    def waited() -> int:
        core.take(between_ns)
        return core.waited_ns

    works = core.steady("R", reference_ms), core.steady("C", candidate_ms)
    timing = time_interleaved(*works, exactly(10), look, waited)
    # A look takes a while itself, and others may come in between two of them as well.
    slack_ms = 6 * between_ns / MS
    assert timing.reference_ms == pytest.approx(reference_ms, abs=slack_ms + 1e-5)
    assert timing.candidate_ms == pytest.approx(candidate_ms, abs=slack_ms + 1e-5)
    assert timing.candidate_p95_ms >= candidate_ms - 1e-5
    assert 0.0 <= timing.waited_share < 1.0


def test_a_block_is_as_long_as_it_should_be_however_long_others_have_the_core() -> None:
    core = SharedCore(ours_ms=3.0, theirs_ms=400.0)
    works = core.steady("R", 2.0), core.steady("C", 0.125)
    timing = time_interleaved(*works, exactly(4, min_block_ms=3.0, max_seconds=1.5), core, lambda: core.waited_ns)
    assert timing.runs_per_block == (2, 24)


def test_others_that_come_between_two_looks_make_no_run_shorter_than_it_is() -> None:
    # After every look at the clock others have the core for longer than a run lasts: their time is in no run.
    clock = FakeClock()
    waited_ns = 0

    def waited() -> int:
        nonlocal waited_ns
        waited_ns += 7 * MS
        clock.now_ns += 7 * MS
        return waited_ns

    shortest = warm_up(clock.steady("C", 0.5), TimingSettings(), clock, waited)
    assert shortest == pytest.approx(0.5)
    works = clock.steady("R", 2.0), clock.steady("C", 0.5)
    timing = time_interleaved(*works, exactly(4), clock, waited)
    assert (timing.reference_ms, timing.candidate_ms, timing.ratio) == pytest.approx((2.0, 0.5, 0.25))
    assert timing.runs_per_block == (2, 6)


def test_the_share_that_others_had_is_told() -> None:
    core = SharedCore(ours_ms=3.0, theirs_ms=6.0)
    works = core.steady("R", 2.0), core.steady("C", 1.0)
    timing = time_interleaved(*works, exactly(200), core, lambda: core.waited_ns)
    assert timing.waited_share == pytest.approx(2 / 3, abs=0.01)
    assert (timing.ratio, timing.ratio_spread) == pytest.approx((0.5, 0.0))


@pytest.mark.parametrize(
    ("account", "waits"),
    [("5000 700 3\n", 700), ("5000 0 0\n", 0), (None, 0)],
    ids=["told", "not kept", "no such file"],
)
def test_waiting_is_read_where_the_kernel_keeps_an_account(tmp_path: Path, account: str | None, waits: int) -> None:
    path = tmp_path / "schedstat"
    if account is not None:
        path.write_text(account)
    assert waiting_clock(path)() == waits


@pytest.mark.skipif(waiting_clock() is never_waits, reason="the kernel keeps no account of waiting")
def test_a_thread_that_is_alone_or_not_has_waited_for_the_time_that_it_neither_ran_nor_slept() -> None:
    waited = waiting_clock()
    begin = time.perf_counter_ns(), time.thread_time_ns(), waited()
    while time.perf_counter_ns() - begin[0] < 100 * MS:
        pass
    end = time.perf_counter_ns(), time.thread_time_ns(), waited()
    passed, ran, waits = (last - first for first, last in zip(begin, end, strict=True))
    assert waits >= 0
    assert abs(passed - ran - waits) < 0.2 * passed


def test_median_with_spread_of_few_values_is_that_of_all_resamples() -> None:
    values = np.array([1.0, 2.0, 10.0])
    medians = sorted(np.median(chosen) for chosen in itertools.product(values, repeat=3))
    low, high = np.percentile(medians, (2.5, 97.5))
    assert (low, high) == (1.0, 10.0)
    assert median_with_spread(values) == (2.0, 4.5)


def test_median_with_spread_agrees_with_the_normal_law_of_the_median() -> None:
    values = np.random.default_rng(5).normal(10.0, 1.0, size=2_000)
    median, spread = median_with_spread(values)
    assert median == np.median(values)
    # The deviation of the median of n normal values is sqrt(pi / (2 n)).
    assert spread == pytest.approx(1.96 * np.sqrt(np.pi / 2 / 2_000), rel=0.25)


def test_timing_survives_json() -> None:
    timing = PairTiming(1.0, 0.1, 0.5, 0.6, 0.5, 0.02, 12, (4, 8))
    plain = timing.to_dict()
    assert plain["runs_per_block"] == [4, 8]
    assert PairTiming.from_dict(plain) == timing
    assert TimingSettings(**TimingSettings(4, 8).to_dict()) == TimingSettings(4, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_blocks": 1}, "min_blocks"),
        ({"min_blocks": 20, "max_blocks": 10}, "got 20 and 10"),
        ({"max_seconds": 0.0}, "max_seconds: a positive number expected, got 0.0"),
        ({"target_relative_interval": float("nan")}, "target_relative_interval"),
        ({"min_block_ms": -1.0}, "min_block_ms"),
    ],
)
def test_settings_without_meaning_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimingSettings(**options)  # type: ignore[arg-type]
