"""Timing of two functions over many inputs, for files whose time depends on the input; the clocks are injected.

Nothing here imports the rest of karui but ``timing``, so that both can be sent to a device as they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .alternating import RESAMPLES, Clock, Floats, never_waits, without_waiting

InputWork = Callable[[int], object]
"""Runs one of the inputs, given its number."""

FEWEST_PASSES = 4
"""Passes over the inputs, whatever they cost."""

MOST_PASSES = 20
"""Passes after which timing stops."""

_PERCENTILE = 95
_WARM_UP_SHARE_OF_SECONDS = 0.05
_WARM_UP_MAXIMUM_RUNS = 60


@dataclass(frozen=True)
class InputsTiming:
    """How long a candidate takes over many inputs, and how that compares with a reference on the same inputs.

    An input's time is the least over the passes, without that for which the thread waited for its core: whatever else a
    machine does only adds to it (Chen and Revels, Robust
    benchmarking in noisy environments, 2016, arXiv:1608.04295), while the way that an input takes through a file is the
    same in every pass. Over the inputs nothing is trimmed, so that a slow way counts as often as it is taken.

    Args:
        reference_ms: Mean over the inputs of the reference's time.
        reference_ms_spread: Half the width of its 95 % interval.
        reference_p95_ms: 95th percentile over the inputs of the reference's time.
        candidate_ms: Mean over the inputs of the candidate's time.
        candidate_p95_ms: 95th percentile over the inputs of the candidate's time.
        ratio: ``candidate_ms / reference_ms``.
        ratio_spread: Half the width of its 95 % interval.
        p95_ratio: ``candidate_p95_ms / reference_p95_ms``.
        p95_ratio_spread: Half the width of its 95 % interval.
        inputs: Inputs that were run.
        passes: How often each of them was timed.
        machine: How the machine was meanwhile, as far as the target tells; JSON types only.
    """

    reference_ms: float
    reference_ms_spread: float
    reference_p95_ms: float
    candidate_ms: float
    candidate_p95_ms: float
    ratio: float
    ratio_spread: float
    p95_ratio: float
    p95_ratio_spread: float
    inputs: int
    passes: int
    machine: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``InputsTiming(**plain)`` reads them back."""
        return asdict(self)


def time_over_inputs(
    reference: InputWork,
    candidate: InputWork,
    inputs: int,
    *,
    max_seconds: float,
    min_block_ms: float,
    clock: Clock = time.perf_counter_ns,
    waited: Clock = never_waits,
) -> InputsTiming:
    """Time two functions over the same inputs, in passes, until the time is up.

    A pass goes through the inputs in blocks; each block is run by the one function and then by the other, and who
    comes first changes from block to block and from pass to pass, so that a drift of the machine falls on both alike.

    Args:
        reference: Runs the reference on one input.
        candidate: Runs the candidate on one input.
        inputs: How many inputs there are.
        max_seconds: No pass begins after this time, warm-up included, once :data:`FEWEST_PASSES` are done.
        min_block_ms: A block has so many inputs that it lasts about this long for the faster of the two.
        clock: Returns the time in nanoseconds.
        waited: Returns the nanoseconds for which others had the core of this thread; for functions that do all their
            work in this thread.

    Raises:
        ValueError: Where there are no inputs.
    """
    if inputs < 1:
        raise ValueError(f"inputs: at least one expected, got {inputs}")
    start_ns = clock()
    run_ms = min(_warm_up(work, inputs, max_seconds, clock, waited) for work in (reference, candidate))
    rows = min(inputs, math.ceil(min_block_ms / max(run_ms, 1e-6)))
    passes: list[Floats] = []
    for number in range(MOST_PASSES):
        if number >= FEWEST_PASSES and clock() - start_ns >= max_seconds * 1e9:
            break
        passes.append(_time_pass((reference, candidate), inputs, rows, number, clock, waited))
    times = np.array(passes)
    return summarize(times[:, 0], times[:, 1])


def _warm_up(work: InputWork, inputs: int, max_seconds: float, clock: Clock, waited: Clock) -> float:
    """Run over inputs for a share of the time, at least once, and return the least time of a run in ms.

    What is still cold then is kept out of the result, which is the least over the passes.
    """
    limit_ms = _WARM_UP_SHARE_OF_SECONDS * max_seconds * 1e3
    passed_ms, shortest = 0.0, math.inf
    for run in range(_WARM_UP_MAXIMUM_RUNS):
        row = run % inputs
        run_ms = float(_time_block(work, row, row + 1, clock, waited)[0])
        passed_ms, shortest = passed_ms + run_ms, min(shortest, run_ms)
        if passed_ms >= limit_ms:
            break
    return shortest


def _time_pass(
    works: tuple[InputWork, InputWork], inputs: int, rows: int, number: int, clock: Clock, waited: Clock
) -> Floats:
    """Time both functions on every input once; return milliseconds of shape (2, inputs).

    The first run of a block pays for what the other function has put out of the caches. Blocks are cut elsewhere in
    each pass, so that it is not the same inputs that pay every time.
    """
    times = np.empty((2, inputs))
    shift = number * rows // FEWEST_PASSES % rows
    for block, begin in enumerate(range(-shift, inputs, rows)):
        first, end = max(begin, 0), min(begin + rows, inputs)
        for which in (0, 1) if (block + number) % 2 == 0 else (1, 0):
            times[which, first:end] = _time_block(works[which], first, end, clock, waited)
    return times


def _time_block(work: InputWork, first: int, last: int, clock: Clock, waited: Clock) -> Floats:
    ends, waits, begins = [clock()], [waited()], [clock()]
    for row in range(first, last):
        work(row)
        ends.append(clock())
        waits.append(waited())
        begins.append(clock())
    return without_waiting(ends, waits, begins)


def summarize(reference_ms: Floats, candidate_ms: Floats, seed: int = 0) -> InputsTiming:
    """Return means, 95th percentiles and their ratios, with percentile bootstrap intervals over the inputs.

    Source of the intervals: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3. Both functions
    are drawn with the same inputs.

    Args:
        reference_ms: Times of the reference, shape (passes, inputs).
        candidate_ms: Times of the candidate, shape (passes, inputs).
        seed: Seed of the resampling.
    """
    passes, inputs = reference_ms.shape
    least = reference_ms.min(axis=0), candidate_ms.min(axis=0)
    drawn = np.random.default_rng(seed).integers(inputs, size=(RESAMPLES, inputs))
    low, high = np.percentile(_statistics(least[0][drawn], least[1][drawn]), (2.5, 97.5), axis=1)
    spread = (high - low) / 2
    found = _statistics(*least)
    return InputsTiming(
        reference_ms=float(found[0]),
        reference_ms_spread=float(spread[0]),
        reference_p95_ms=float(found[1]),
        candidate_ms=float(found[2]),
        candidate_p95_ms=float(found[3]),
        ratio=float(found[4]),
        ratio_spread=float(spread[4]),
        p95_ratio=float(found[5]),
        p95_ratio_spread=float(spread[5]),
        inputs=inputs,
        passes=passes,
    )


def _statistics(reference_ms: Floats, candidate_ms: Floats) -> Floats:
    """Return mean and 95th percentile over the last axis of the reference, of the candidate, and their two ratios."""
    mean, tail = reference_ms.mean(axis=-1), np.percentile(reference_ms, _PERCENTILE, axis=-1)
    our_mean, our_tail = candidate_ms.mean(axis=-1), np.percentile(candidate_ms, _PERCENTILE, axis=-1)
    return np.array([mean, tail, our_mean, our_tail, our_mean / mean, our_tail / tail])
