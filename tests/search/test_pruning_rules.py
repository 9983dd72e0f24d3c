"""The gates by hand, and what may never happen: that one stops a candidate which could still be on the front."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from karui.errors import CandidateStopped
from karui.search.objectives import OBJECTIVES
from karui.search.outcome import PEERS, LearningCurve, PastTraining
from karui.search.statistics.noise import dominated_beyond_noise
from karui.search.stopping.early_stopping import EarlyStopping
from karui.search.stopping.pruning_rules import LATENCY_SLACK, SIZE_SLACK, PruningRules, Rival, UntrainedProxy

RIVAL = Rival(12, 54_300.0, 0.31, 0.95)
GATES = PruningRules(front=(RIVAL,), hoped_accuracy=0.95, baseline_ms=1.0)
LARGE = UntrainedProxy(81_200.0, 0.41, 0.01)

SIZES = st.floats(1e2, 1e6)
TIMES = st.floats(1e-2, 1e2)
SHARES = st.floats(0.0, 1.0)
RIVALS = st.lists(st.builds(Rival, st.integers(0, 99), SIZES, TIMES, SHARES), max_size=6).map(tuple)
PROXIES = st.builds(UntrainedProxy, SIZES, TIMES, st.floats(0.0, 1.0))


@st.composite
def beaten_proxies(draw: st.DrawFn) -> tuple[tuple[Rival, ...], UntrainedProxy, float]:
    """Rivals, an untrained proxy that a gate stops because of one of them, and what is hoped for."""
    rivals, proxy, hoped = draw(RIVALS), draw(PROXIES), draw(SHARES)
    size = proxy.least_bytes * draw(st.floats(0.01, 0.99))
    time = proxy.least_ms * draw(st.floats(0.01, 0.99))
    assume(proxy.least_ms > 0)
    rival = Rival(100, size, time, draw(st.floats(hoped, 1.0)))
    return (*rivals, rival), proxy, hoped


def test_an_untrained_proxy_that_is_beaten_at_the_hoped_accuracy_is_stopped_in_words() -> None:
    stop = GATES.check_untrained_proxy(LARGE)
    assert stop is not None
    assert stop.gate == "front"
    assert stop.reason == (
        "an untrained proxy of 81.2 KB and 0.410x latency: dominated by trial 12 (54.3 KB, 0.310x, 0.9500) "
        "even at an accuracy of 0.9500"
    )
    by_size, by_time = 81_200 * (1 - SIZE_SLACK) / 54_300 - 1, 0.40 * (1 - LATENCY_SLACK) / 0.31 - 1
    assert stop.excess == pytest.approx(min(by_size, by_time))


@pytest.mark.parametrize(
    "proxy",
    [
        UntrainedProxy(54_300.0 / (1 - SIZE_SLACK), 0.41, 0.01),  # it may become as small
        UntrainedProxy(81_200.0, 0.31 / (1 - LATENCY_SLACK), 0.0),  # or as fast
        UntrainedProxy(81_200.0, 0.41, 0.41 - 0.31),  # its latency is not known well enough
    ],
)
def test_what_may_still_be_as_small_or_as_fast_passes(proxy: UntrainedProxy) -> None:
    assert GATES.check_untrained_proxy(proxy) is None


def test_a_rival_less_accurate_than_what_is_hoped_for_stops_nothing() -> None:
    assert replace(GATES, hoped_accuracy=0.951).check_untrained_proxy(LARGE) is None


def test_bounds_stop_beyond_their_slack() -> None:
    small = replace(GATES, most_bytes=70_000.0)
    stop = small.check_size(81_200.0)
    assert stop == small.check_untrained_proxy(LARGE)
    assert stop is not None
    assert stop.gate == "size"
    assert stop.excess == pytest.approx(81_200 * (1 - SIZE_SLACK) / 70_000 - 1)
    assert stop.reason == "an untrained proxy of 81.2 KB, where at most 70.0 KB are allowed"
    assert replace(GATES, most_bytes=81_200 * (1 - SIZE_SLACK)).check_size(81_200.0) is None
    fast = replace(GATES, most_ms=0.2).check_untrained_proxy(LARGE)
    assert fast is not None
    assert (fast.gate, fast.reason) == (
        "latency",
        "an untrained proxy of 0.410x the baseline's latency, where at most 0.200x is allowed",
    )


def test_checks_that_are_not_asked_for_stop_nothing() -> None:
    strict = replace(GATES, most_bytes=1.0, most_ms=0.001, least_accuracy=2.0, past=plain_past(0.5, 0.6))
    assert replace(strict, checks=("rungs",)).check_untrained_proxy(LARGE) is None
    assert replace(strict, checks=("draft",)).check_rung(LARGE, LearningCurve("warm", 2, (0.5,))) is None
    assert strict.check_untrained_proxy(LARGE)
    assert strict.check_rung(LARGE, LearningCurve("warm", 2, (0.5,)))


@given(world=beaten_proxies(), size=SHARES, time=SHARES, worse=SHARES)
def test_nothing_is_stopped_that_could_still_be_on_the_front(
    world: tuple[tuple[Rival, ...], UntrainedProxy, float], size: float, time: float, worse: float
) -> None:
    rivals, proxy, hoped = world
    for some in (rivals, rivals[:-1]):
        if PruningRules(some, hoped, 1.0).check_untrained_proxy(proxy) is None:
            assert some != rivals
            continue
        # Any file within the slack, at any accuracy up to the hoped one, is dominated by one of the rivals.
        size_bytes = proxy.size_bytes * (1 - SIZE_SLACK) * (1 + size)
        latency_ms = max(0.0, proxy.latency_ms - proxy.latency_spread_ms) * (1 - LATENCY_SLACK) * (1 + time)
        assert any(
            rival.size_bytes < size_bytes and rival.latency_ms < latency_ms and rival.accuracy >= hoped * worse
            for rival in some
        )


@given(world=beaten_proxies(), others=RIVALS)
def test_more_rivals_less_hope_and_tighter_bounds_stop_no_fewer(
    world: tuple[tuple[Rival, ...], UntrainedProxy, float], others: tuple[Rival, ...]
) -> None:
    rivals, proxy, hoped = world
    gates = PruningRules(rivals, hoped, 1.0, most_bytes=5e5, most_ms=50.0)
    for stricter in (
        replace(gates, front=rivals + others),
        replace(gates, hoped_accuracy=hoped / 2),
        replace(gates, most_bytes=1e5),
        replace(gates, most_ms=5.0),
    ):
        assert stricter.check_untrained_proxy(proxy) is not None


@given(rivals=RIVALS, proxy=PROXIES, hoped=SHARES, size=SHARES, time=SHARES, wider=st.floats(0.0, 10.0))
def test_what_is_smaller_faster_or_less_surely_slow_passes_where_another_passes(
    rivals: tuple[Rival, ...], proxy: UntrainedProxy, hoped: float, size: float, time: float, wider: float
) -> None:
    gates = PruningRules(rivals, hoped, 1.0, most_bytes=5e5, most_ms=50.0)
    if gates.check_untrained_proxy(proxy) is not None:
        # The least that it takes to pass: smaller than all, and within the bounds.
        proxy = replace(proxy, size_bytes=50.0, latency_ms=min(proxy.latency_ms, 50.0))
    assert gates.check_untrained_proxy(proxy) is None
    better = UntrainedProxy(proxy.size_bytes * size, proxy.latency_ms * time, proxy.latency_spread_ms + wider)
    assert gates.check_untrained_proxy(better) is None


@given(rivals=RIVALS, proxy=PROXIES, hoped=SHARES, taught=st.booleans(), metric=SHARES)
def test_latency_is_left_out_only_where_no_latency_would_stop_it(
    rivals: tuple[Rival, ...], proxy: UntrainedProxy, hoped: float, taught: bool, metric: float
) -> None:
    gates = PruningRules(rivals, hoped, 1.0, past=plain_past(0.1, 0.2) if taught else ())
    slow = replace(proxy, latency_ms=1e9, latency_spread_ms=0.0)
    stops = (gates.check_untrained_proxy(slow), gates.check_rung(slow, LearningCurve("warm", 2, (metric,))))
    if not gates.wants_latency(proxy.size_bytes):
        assert stops == (None, None)
    elif not taught:
        assert stops[0] is not None, "what is slow enough is stopped"
    assert replace(gates, most_ms=1.0).wants_latency(proxy.size_bytes)


def plain_past(first: float, end: float) -> tuple[PastTraining, ...]:
    return (PastTraining(LearningCurve("warm", 2, (first, end)), end),) * PEERS


def test_a_rung_stops_what_would_be_dominated_at_its_projected_accuracy() -> None:
    gates = replace(GATES, hoped_accuracy=0.99, past=plain_past(0.8, 0.9), accuracy_noise=0.02)
    assert gates.check_untrained_proxy(LARGE) is None, "at 0.99 nothing dominates it"
    stop = gates.check_rung(LARGE, LearningCurve("warm", 2, (0.82,)))
    assert stop is not None
    assert (stop.gate, stop.reason) == (
        "rung",
        "epoch 1 of 2, 0.8200, at most 0.9400 in the end; an untrained proxy of 81.2 KB and 0.410x latency: "
        "dominated by trial 12 (54.3 KB, 0.310x, 0.9500)",
    )
    # One point better, and it might come to 0.951.
    assert gates.check_rung(LARGE, LearningCurve("warm", 2, (0.831,))) is None
    assert gates.check_rung(None, LearningCurve("warm", 2, (0.82,))) is None, (
        "without an untrained proxy nothing is known"
    )


def test_a_rung_stops_what_will_break_the_bound_on_accuracy() -> None:
    gates = replace(GATES, front=(), past=plain_past(0.5, 0.6), least_accuracy=0.9)
    stop = gates.check_rung(None, LearningCurve("warm", 2, (0.5,)))
    assert stop is not None
    assert stop.reason == "epoch 1 of 2, 0.5000, at most 0.6000 in the end, where at least 0.9000 is needed"
    assert stop.excess == pytest.approx(1 / 3)
    assert replace(gates, least_accuracy=0.6).check_rung(None, LearningCurve("warm", 2, (0.5,))) is None
    # A metric may be a negative error, and a bound on it negative too.
    errors = replace(gates, past=plain_past(-9.0, -5.0), least_accuracy=-4.0)
    stop = errors.check_rung(None, LearningCurve("warm", 2, (-9.0,)))
    assert stop is not None
    assert stop.excess == pytest.approx(0.25)


# --- the noise of a rival ---------------------------------------------------------------------------------------------

NOISY_RIVALS = st.builds(
    Rival, st.just(1), SIZES, st.floats(0.5, 2.0), SHARES, st.floats(0.0, 0.5), st.floats(0.0, 0.2)
)


def test_a_rivals_latency_counts_with_its_interval() -> None:
    # Beside 0.31 ms the proxy is as fast as 0.41 * 0.9 = 0.369 ms at best, its interval being 0.009 wide by then.
    for spread_ms, is_stopped in ((0.05, True), (0.058, True), (0.0585, False), (0.2, False)):
        stop = replace(GATES, front=(replace(RIVAL, latency_spread_ms=spread_ms),)).check_untrained_proxy(LARGE)
        assert (stop is not None) == is_stopped == (math.hypot(0.009, spread_ms) < 0.059)
        if stop is not None:
            assert stop.excess == pytest.approx((0.369 - math.hypot(0.009, spread_ms)) / 0.31 - 1)


def test_a_rivals_interval_has_nothing_to_do_with_bounds() -> None:
    noisy = replace(GATES, front=(replace(RIVAL, latency_spread_ms=9.0, accuracy_spread=9.0),), most_ms=0.2)
    assert noisy.check_untrained_proxy(LARGE) == replace(GATES, most_ms=0.2).check_untrained_proxy(LARGE)


def test_at_a_rung_the_rivals_accuracy_counts_with_its_interval() -> None:
    curve = LearningCurve("warm", 2, (0.82,))  # 0.92 is expected
    for noise, spread in ((0.018, 0.024), (0.0, 0.03), (0.02, 0.0)):
        gates = replace(GATES, past=plain_past(0.8, 0.9), accuracy_noise=noise)
        at_noise = [replace(RIVAL, accuracy=0.92 + difference, accuracy_spread=spread) for difference in (0.0301, 0.01)]
        stops = [replace(gates, front=(rival,)).check_rung(LARGE, curve) for rival in at_noise]
        assert [stop is not None for stop in stops] == [True, False]


@given(rivals=st.lists(NOISY_RIVALS, max_size=4).map(tuple), proxy=PROXIES, metric=SHARES, noise=st.floats(0.0, 0.2))
def test_a_rung_calls_beaten_exactly_who_is_dominated_beyond_noise(
    rivals: tuple[Rival, ...], proxy: UntrainedProxy, metric: float, noise: float
) -> None:
    gates = PruningRules(rivals, 1.0, 1.0, accuracy_noise=noise, past=plain_past(0.5, 0.5))
    # The best that the file may be, and what is expected of it, each with its spread; slack is no noise.
    expected = max(metric, 0.5)
    best = (proxy.size_bytes * (1 - SIZE_SLACK), proxy.latency_ms * (1 - LATENCY_SLACK), expected)
    spreads = (0.0, proxy.latency_spread_ms * (1 - LATENCY_SLACK), noise)
    points = [best, *((rival.size_bytes, rival.latency_ms, rival.accuracy) for rival in rivals)]
    widths = [spreads, *((0.0, rival.latency_spread_ms, rival.accuracy_spread) for rival in rivals)]
    gaps = [
        abs(abs(mine - its) - math.hypot(width, other))
        for point, row in zip(points[1:], widths[1:], strict=True)
        for mine, its, width, other in zip(best, point, spreads, row, strict=True)
    ]
    assume(all(gap > 1e-9 for gap in gaps))  # on the very edge rounding decides
    by_each = [
        dominated_beyond_noise([points[0], one], [widths[0], its], OBJECTIVES)[0]
        for one, its in zip(points[1:], widths[1:], strict=True)
    ]
    stop = gates.check_rung(proxy, LearningCurve("warm", 2, (metric,)))
    assert (stop is not None) == any(by_each)


def test_gates_travel_to_another_process_and_so_does_the_stop() -> None:
    gates = replace(GATES, past=plain_past(0.5, 0.6), tested=frozenset({"size"}))
    assert pickle.loads(pickle.dumps(gates)) == gates
    stopped = pickle.loads(pickle.dumps(CandidateStopped("front", "too   large", 0.25)))
    assert (stopped.gate, stopped.reason, stopped.excess, str(stopped)) == (
        "front",
        "too large",
        0.25,
        "front: too large",
    )


# --- a candidate's way through its gates ------------------------------------------------------------------------------


def test_a_candidate_ends_at_the_first_gate_that_says_stop() -> None:
    with pytest.raises(CandidateStopped, match=r"^size: an untrained proxy of 81.2 KB"):
        EarlyStopping(replace(GATES, most_bytes=10.0)).size(81_200.0)
    early_stopping = EarlyStopping(GATES)
    early_stopping.size(81_200.0)
    with pytest.raises(CandidateStopped, match="dominated by trial 12"):
        early_stopping.untrained_proxy(LARGE)


def test_a_tested_candidate_goes_on_whatever_comes_and_remembers_the_first_verdict() -> None:
    gates = replace(GATES, past=plain_past(0.5, 0.6), least_accuracy=0.9, tested=frozenset({"front"}))
    early_stopping = EarlyStopping(gates)
    early_stopping.untrained_proxy(LARGE)
    early_stopping.on_epoch("warm", 2, 1, 0.5)
    early_stopping.on_epoch("warm", 2, 2, 0.6)
    assert early_stopping.let_through == gates.check_untrained_proxy(LARGE)
    assert early_stopping.curves == (LearningCurve("warm", 2, (0.5, 0.6)),)
    with pytest.raises(CandidateStopped, match=r"where at least 0\.9000 is needed"):
        EarlyStopping(gates).on_epoch("warm", 2, 1, 0.5)


def test_only_rungs_are_looked_at() -> None:
    past = (PastTraining(LearningCurve("warm", 6, (0.1,) * 6), 0.1),) * PEERS
    gates = replace(GATES, past=past, least_accuracy=0.5, tested=frozenset())
    looked = []
    for epoch in range(1, 7):
        try:
            EarlyStopping(gates).on_epoch("warm", 6, epoch, 0.1)
        except CandidateStopped:
            looked.append(epoch)
    assert looked == [1, 2, 4]


def test_without_gates_curves_are_taken_down_and_nothing_else_happens() -> None:
    early_stopping = EarlyStopping(None)
    early_stopping.size(math.inf)
    early_stopping.untrained_proxy(LARGE)
    early_stopping.on_epoch("from scratch", 2, 1, 0.1)
    early_stopping.on_epoch("aware", 1, 1, 0.3)
    assert early_stopping.curves == (LearningCurve("from scratch", 2, (0.1,)), LearningCurve("aware", 1, (0.3,)))
    assert early_stopping.let_through is None
