"""Energy of two functions in alternating blocks; meter and clock are injected.

Nothing here imports more of karui than the statistics of :mod:`~karui.evaluators.timing.alternating`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .alternating import Work, median_with_spread
from .energy_meter import EnergyMeter

BLOCK_SECONDS = 0.15
"""How long a block lasts at least: counters of energy move on by the millisecond, sensors more seldom."""

_FEWEST_PAIRS = 4


@dataclass(frozen=True)
class PairEnergy:
    """How much energy a run of a candidate takes, and how that compares with a reference beside it.

    All that the meter sees is counted: what the machine takes at rest, and what others do meanwhile.

    Args:
        reference_mj: Median over blocks of the energy of one run of the reference, in millijoules.
        candidate_mj: The same of the candidate.
        ratio: Median over pairs of neighbouring blocks of candidate / reference.
        ratio_spread: Half the width of its 95 % interval.
        pairs: Pairs of blocks.
        meter: What was read.
    """

    reference_mj: float
    candidate_mj: float
    ratio: float
    ratio_spread: float
    pairs: int
    meter: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``PairEnergy(**plain)`` reads them back."""
        return asdict(self)


def meter_interleaved(
    reference: Work,
    candidate: Work,
    meter: EnergyMeter,
    *,
    max_seconds: float,
    block_seconds: float = BLOCK_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> PairEnergy | None:
    """Meter two functions in alternating blocks, an even number of pairs, the order swapped from pair to pair.

    Args:
        reference: Runs the reference once.
        candidate: Runs the candidate once.
        meter: Counts energy.
        max_seconds: No two pairs begin after this time, once four are done.
        block_seconds: A block runs its function for as long as this at least.
        clock: Seconds that only grow.

    Returns:
        None where the meter has not moved during a block.
    """
    begin = clock()
    reference_mj: list[float] = []
    candidate_mj: list[float] = []
    while len(candidate_mj) < _FEWEST_PAIRS or clock() - begin < max_seconds:
        in_order = (reference, reference_mj), (candidate, candidate_mj)
        for works in (in_order, in_order[::-1]):
            for work, found in works:
                found.append(_meter_block(work, meter, block_seconds, clock))
    if min(*reference_mj, *candidate_mj) <= 0:
        return None
    ratio, spread = median_with_spread(np.array(candidate_mj) / np.array(reference_mj))
    return PairEnergy(
        reference_mj=float(np.median(reference_mj)),
        candidate_mj=float(np.median(candidate_mj)),
        ratio=ratio,
        ratio_spread=spread,
        pairs=len(candidate_mj),
        meter=meter.name,
    )


def _meter_block(work: Work, meter: EnergyMeter, seconds: float, clock: Callable[[], float]) -> float:
    """Return the energy of one run, in millijoules."""
    work()  # what the other function has put out of the caches is no part of it
    begin, before, runs = clock(), meter.joules(), 0
    while True:
        work()
        runs += 1
        joules = meter.joules()
        if clock() - begin >= seconds:
            return 1e3 * (joules - before) / runs
