"""Timing of two functions in alternating blocks, and the statistics of their ratio; the clock is injected.

Nothing here imports the rest of karui, so that the file can be sent to a device as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], object]
Clock = Callable[[], int]
Floats = NDArray[np.float64]

RESAMPLES = 400
"""Bootstrap resamples behind each interval."""

_WARM_UP_WINDOW_RUNS = 3
_WARM_UP_MAXIMUM_RUNS = 60
_WARM_UP_TOLERANCE = 0.03
_WARM_UP_SHARE_OF_SECONDS = 0.15


@dataclass(frozen=True)
class TimingSettings:
    """How long and how finely two functions are compared.

    Args:
        min_blocks: Blocks of each function that are timed whatever they cost.
        max_blocks: Blocks of each function after which timing stops.
        target_relative_interval: Timing stops once half the width of the 95 % interval of the ratio is at most this
            share of the ratio.
        max_seconds: Timing stops after this time, warm-up included, once ``min_blocks`` are done.
        min_block_ms: A block repeats its function until it lasts about this long.

    Raises:
        ValueError: Where a value has no meaning.
    """

    min_blocks: int = 10
    max_blocks: int = 300
    target_relative_interval: float = 0.01
    max_seconds: float = 1.5
    min_block_ms: float = 3.0

    def __post_init__(self) -> None:
        if not 2 <= self.min_blocks <= self.max_blocks:
            raise ValueError(f"2 <= min_blocks <= max_blocks expected, got {self.min_blocks} and {self.max_blocks}")
        for name in ("target_relative_interval", "max_seconds", "min_block_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: a positive number expected, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``TimingSettings(**plain)`` reads them back."""
        return asdict(self)


@dataclass(frozen=True)
class PairTiming:
    """How long a candidate takes, and how that compares with a reference timed in alternation with it.

    Args:
        reference_ms: Median over blocks of the time of one run of the reference.
        reference_ms_spread: Half the width of its 95 % interval.
        candidate_ms: Median over blocks of the time of one run of the candidate.
        candidate_p95_ms: The time that 95 % of the candidate's runs stay below.
        ratio: Median over pairs of neighbouring blocks of candidate / reference.
        ratio_spread: Half the width of its 95 % interval.
        pairs: Pairs of blocks that were timed.
        runs_per_block: Runs in one block of the reference, and of the candidate.
    """

    reference_ms: float
    reference_ms_spread: float
    candidate_ms: float
    candidate_p95_ms: float
    ratio: float
    ratio_spread: float
    pairs: int
    runs_per_block: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return {**asdict(self), "runs_per_block": list(self.runs_per_block)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PairTiming:
        """Read what :meth:`to_dict` wrote."""
        reference_runs, candidate_runs = plain["runs_per_block"]
        return cls(**{**plain, "runs_per_block": (reference_runs, candidate_runs)})


def time_interleaved(
    reference: Work, candidate: Work, settings: TimingSettings, clock: Clock = time.perf_counter_ns
) -> PairTiming:
    """Time two functions in alternating blocks, so that a drift of the machine falls on both alike.

    The order is swapped from pair to pair (R C, C R, R C, ...) and the number of pairs is even, so that what comes
    second has no advantage; medians keep an occasional slow block out of the result.

    Args:
        reference: Runs the reference once.
        candidate: Runs the candidate once.
        settings: When to stop, and how long a block lasts.
        clock: Returns the time in nanoseconds.
    """
    start_ns = clock()
    runs = tuple(_runs_per_block(warm_up(work, settings, clock), settings) for work in (reference, candidate))
    reference_blocks: list[Floats] = []
    candidate_blocks: list[Floats] = []
    next_check = settings.min_blocks + settings.min_blocks % 2
    while True:
        for first_is_reference in (True, False):
            if first_is_reference:
                reference_blocks.append(_time_block(reference, runs[0], clock))
            candidate_blocks.append(_time_block(candidate, runs[1], clock))
            if not first_is_reference:
                reference_blocks.append(_time_block(reference, runs[0], clock))
        pairs = len(candidate_blocks)
        if pairs < settings.min_blocks:
            continue
        if pairs + 2 > settings.max_blocks or clock() - start_ns >= settings.max_seconds * 1e9:
            break
        if pairs >= next_check:
            ratio, spread = median_with_spread(_ratios(reference_blocks, candidate_blocks))
            if spread <= settings.target_relative_interval * ratio:
                break
            # Each check costs milliseconds during which nothing runs, so they thin out.
            next_check = pairs + max(2, pairs // 4)
    return _summarize(reference_blocks, candidate_blocks)


def warm_up(work: Work, settings: TimingSettings, clock: Clock) -> float:
    """Run until three runs in a row are no faster than what came before, and return the last time of a run in ms.

    The first runs pay for memory, caches and the processor's frequency. Bounded in runs and by a share of
    ``settings.max_seconds``; one run is the least.
    """
    limit_ns = _WARM_UP_SHARE_OF_SECONDS * settings.max_seconds * 1e9
    start_ns = clock()
    fastest_before = math.inf
    window: list[float] = []
    for _ in range(_WARM_UP_MAXIMUM_RUNS):
        begin_ns = clock()
        work()
        end_ns = clock()
        window.append((end_ns - begin_ns) * 1e-6)
        if end_ns - start_ns >= limit_ns:
            break
        if len(window) == _WARM_UP_WINDOW_RUNS:
            if min(window) >= fastest_before * (1 - _WARM_UP_TOLERANCE):
                break
            fastest_before = min(fastest_before, *window)
            window = []
    return min([*window, fastest_before])


def median_with_spread(values: Floats, seed: int = 0) -> tuple[float, float]:
    """Return the median and half the width of its 95 % percentile bootstrap interval.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.

    Args:
        values: Shape (n,).
        seed: Seed of the resampling.
    """
    chosen = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    medians = np.median(values[chosen], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(np.median(values)), float(high - low) / 2


def _runs_per_block(run_ms: float, settings: TimingSettings) -> int:
    return max(1, math.ceil(settings.min_block_ms / max(run_ms, 1e-6)))


def _time_block(work: Work, runs: int, clock: Clock) -> Floats:
    stamps = [clock()]
    for _ in range(runs):
        work()
        stamps.append(clock())
    ticks = np.asarray(stamps, dtype=np.int64)
    run_ms: Floats = (ticks[1:] - ticks[:-1]).astype(np.float64) * 1e-6
    return run_ms


def _ratios(reference_blocks: list[Floats], candidate_blocks: list[Floats]) -> Floats:
    return _block_ms(candidate_blocks) / _block_ms(reference_blocks)


def _block_ms(blocks: list[Floats]) -> Floats:
    return np.array([_middle_mean(block) for block in blocks])


def _middle_mean(values: Floats) -> float:
    # As deaf to an interrupt as the median, but not quantised by a coarse clock.
    tail = len(values) // 4
    return float(np.sort(values)[tail : len(values) - tail].mean())


def _summarize(reference_blocks: list[Floats], candidate_blocks: list[Floats]) -> PairTiming:
    reference_ms, reference_ms_spread = median_with_spread(_block_ms(reference_blocks))
    ratio, ratio_spread = median_with_spread(_ratios(reference_blocks, candidate_blocks))
    return PairTiming(
        reference_ms=reference_ms,
        reference_ms_spread=reference_ms_spread,
        candidate_ms=float(np.median(_block_ms(candidate_blocks))),
        candidate_p95_ms=float(np.percentile(np.concatenate(candidate_blocks), 95)),
        ratio=ratio,
        ratio_spread=ratio_spread,
        pairs=len(candidate_blocks),
        runs_per_block=(len(reference_blocks[0]), len(candidate_blocks[0])),
    )
