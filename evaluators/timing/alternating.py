"""Timing of two functions in alternating blocks, and the statistics of their ratio; the clocks are injected.

Nothing here imports the rest of karui, so that the file can be sent to a device as it is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], object]
Clock = Callable[[], int]
Floats = NDArray[np.float64]

RESAMPLES = 400
"""Bootstrap resamples behind each interval."""

_WARM_UP_WINDOW_RUNS = 3
_WARM_UP_TOLERANCE = 0.03
_WARM_UP_SHARE_OF_SECONDS = 0.15
_MOST_RUNS_PER_BLOCK = 10_000
_LOWER_QUARTILE = 25


def never_waits() -> int:
    """Return that a thread was never kept from its core."""
    return 0


def waiting_clock(path: Path = Path("/proc/thread-self/schedstat")) -> Clock:
    """Return a clock of the nanoseconds for which the thread that makes it was ready to run, but others had its core.

    It stands still where the system does not tell (other than Linux, or a kernel without these accounts).

    Args:
        path: What the kernel says of this thread: nanoseconds run and waited, and how often it ran
            (Documentation/scheduler/sched-stats.rst of Linux).
    """
    try:
        account = path.open("rb", buffering=0)
    except OSError:
        return never_waits

    def waited() -> int:
        return int(os.pread(account.fileno(), 100, 0).split()[1])

    _, _, turns = account.readline().split()
    return waited if int(turns) else never_waits


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
    target_relative_interval: float = 0.005
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

    The time of a run is without that for which the thread waited for its core; the time of a block is the lower
    quartile of its runs. Of eight files that were timed again and again beside processes that shared the core, the
    ratio varied by 1 % so, and by 29 % with wall time; quartiles of blocks varied less than means, medians or the
    least.

    Args:
        reference_ms: Median over blocks of the time of one run of the reference.
        reference_ms_spread: Half the width of its 95 % interval.
        candidate_ms: Median over blocks of the time of one run of the candidate.
        candidate_p95_ms: The time that 95 % of the candidate's runs stay below.
        ratio: Median over pairs of neighbouring blocks of candidate / reference.
        ratio_spread: Half the width of its 95 % interval.
        pairs: Pairs of blocks that were timed.
        runs_per_block: Runs in one block of the reference, and of the candidate.
        waited_share: For which share of the time the thread waited for its core.
        machine: How the machine was meanwhile, as far as the target tells; JSON types only.
    """

    reference_ms: float
    reference_ms_spread: float
    candidate_ms: float
    candidate_p95_ms: float
    ratio: float
    ratio_spread: float
    pairs: int
    runs_per_block: tuple[int, int]
    waited_share: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return {**asdict(self), "runs_per_block": list(self.runs_per_block)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PairTiming:
        """Read what :meth:`to_dict` wrote."""
        reference_runs, candidate_runs = plain["runs_per_block"]
        return cls(**{**plain, "runs_per_block": (reference_runs, candidate_runs)})


@dataclass(frozen=True)
class _Block:
    """Runs of one function in a row: shape (runs,), milliseconds; and for how long others had the core meanwhile."""

    run_ms: Floats
    waited_ms: float

    @property
    def middle_ms(self) -> float:
        """What a run takes: deaf to all that slows fewer than three quarters of the runs."""
        return float(np.percentile(self.run_ms, _LOWER_QUARTILE))


def time_interleaved(
    reference: Work,
    candidate: Work,
    settings: TimingSettings,
    clock: Clock = time.perf_counter_ns,
    waited: Clock = never_waits,
) -> PairTiming:
    """Time two functions in alternating blocks, so that a drift of the machine falls on both alike.

    The order is swapped from pair to pair (R C, C R, R C, ...) and the number of pairs is even, so that what comes
    second has no advantage; medians keep an occasional slow block out of the result.

    Args:
        reference: Runs the reference once.
        candidate: Runs the candidate once.
        settings: When to stop, and how long a block lasts.
        clock: Returns the time in nanoseconds.
        waited: Returns the nanoseconds for which others had the core of this thread, such as :func:`waiting_clock`; for
            functions that do all their work in this thread.
    """
    start_ns = clock()
    runs = tuple(_runs_per_block(warm_up(work, settings, clock, waited), settings) for work in (reference, candidate))
    reference_blocks: list[_Block] = []
    candidate_blocks: list[_Block] = []
    next_check = settings.min_blocks + settings.min_blocks % 2
    while True:
        for first_is_reference in (True, False):
            if first_is_reference:
                reference_blocks.append(_time_block(reference, runs[0], clock, waited))
            candidate_blocks.append(_time_block(candidate, runs[1], clock, waited))
            if not first_is_reference:
                reference_blocks.append(_time_block(reference, runs[0], clock, waited))
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


def warm_up(work: Work, settings: TimingSettings, clock: Clock, waited: Clock = never_waits) -> float:
    """Run until it becomes no faster, and return the least time of a run in ms.

    The first runs pay for memory, caches and the processor's frequency. A stretch of runs, three at least and a block
    long, has to be no faster than those before it. Bounded by a share of ``settings.max_seconds``; one run is the
    least.
    """
    limit_ms = _WARM_UP_SHARE_OF_SECONDS * settings.max_seconds * 1e3
    fastest_before = math.inf
    passed_ms = 0.0
    stretch: list[float] = []
    while True:
        # Where others take most of a core, by the wall the first run alone may last as long as all of this should.
        stretch.append(float(_time_block(work, 1, clock, waited).run_ms[0]))
        passed_ms += stretch[-1]
        if passed_ms >= limit_ms:
            break
        if len(stretch) >= _WARM_UP_WINDOW_RUNS and sum(stretch) >= settings.min_block_ms:
            if min(stretch) >= fastest_before * (1 - _WARM_UP_TOLERANCE):
                break
            fastest_before = min(fastest_before, *stretch)
            stretch = []
    return min([*stretch, fastest_before])


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
    return max(1, min(_MOST_RUNS_PER_BLOCK, math.ceil(settings.min_block_ms / max(run_ms, 1e-6))))


def _time_block(work: Work, runs: int, clock: Clock, waited: Clock) -> _Block:
    ends, waits, begins = [clock()], [waited()], [clock()]
    for _ in range(runs):
        work()
        ends.append(clock())
        waits.append(waited())
        begins.append(clock())
    return _Block(without_waiting(ends, waits, begins), float(waits[-1] - waits[0]) * 1e-6)


def without_waiting(ends: Sequence[int], waits: Sequence[int], begins: Sequence[int]) -> Floats:
    """Return how long each run of a row took, milliseconds, without the time for which others had its core.

    Args:
        ends: Nanoseconds before the first run and behind each, shape (runs + 1,).
        waits: What the thread had waited in all, read after each of these, likewise.
        begins: Nanoseconds after that reading, likewise.
    """
    end, wait, begin = (np.asarray(stamps, dtype=np.int64) for stamps in (ends, waits, begins))
    # What was waited between two runs is in their accounts too: at most as long as that took is not theirs.
    between = begin - end
    theirs = np.maximum(0, np.diff(wait) - between[:-1] - between[1:])
    run_ms: Floats = (end[1:] - begin[:-1] - theirs).astype(np.float64) * 1e-6
    return run_ms


def _ratios(reference_blocks: list[_Block], candidate_blocks: list[_Block]) -> Floats:
    return _block_ms(candidate_blocks) / _block_ms(reference_blocks)


def _block_ms(blocks: list[_Block]) -> Floats:
    return np.array([block.middle_ms for block in blocks])


def _summarize(reference_blocks: list[_Block], candidate_blocks: list[_Block]) -> PairTiming:
    reference_ms, reference_ms_spread = median_with_spread(_block_ms(reference_blocks))
    ratio, ratio_spread = median_with_spread(_ratios(reference_blocks, candidate_blocks))
    blocks = [*reference_blocks, *candidate_blocks]
    waited_ms = sum(block.waited_ms for block in blocks)
    ran_ms = sum(float(block.run_ms.sum()) for block in blocks)
    return PairTiming(
        reference_ms=reference_ms,
        reference_ms_spread=reference_ms_spread,
        candidate_ms=float(np.median(_block_ms(candidate_blocks))),
        candidate_p95_ms=float(np.percentile(np.concatenate([block.run_ms for block in candidate_blocks]), 95)),
        ratio=ratio,
        ratio_spread=ratio_spread,
        pairs=len(candidate_blocks),
        runs_per_block=(len(reference_blocks[0].run_ms), len(candidate_blocks[0].run_ms)),
        waited_share=waited_ms / (waited_ms + ran_ms),
    )
