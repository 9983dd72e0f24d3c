"""How far one file's latency lies from run to run: what no interval of a single run can know.

Within a run blocks alternate, and what they differ by is in its interval. But a run as a whole has its own luck: where
its memory lies, and what else goes on meanwhile, which slows one file more than the other. So a measurement is made of
two runs, each with sessions of its own; by how much the two differ, over all files that were measured so far, is the
variance between runs (a variance component by the analysis of variance; Searle, Casella & McCulloch, Variance
Components, 1992, chapter 3). As there are few at first, it begins with what was known before and moves away from that
as files are measured (a moderated variance; Smyth, Statistical Applications in Genetics and Molecular Biology 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .alternating import PairTiming, TimingSettings

RUNS = 2
"""Runs of a measurement; each has its share of the time that the measurement may take."""

RUN_TO_RUN = 0.05
"""By what share two timings of one file may differ beyond their intervals (95 % of the time) before that was measured:
of 34 files timed twice none differed by more than 6 %, half by less than 1.6 %."""

_KNOWN_BEFORE = 4.0
"""As so many files that were measured twice counts what was known before."""

_DEVIATIONS = 1.96


class RunToRun:
    """Learns how much runs of one file differ, as a share of its latency."""

    def __init__(self) -> None:
        self._variances = _KNOWN_BEFORE * (RUN_TO_RUN / _DEVIATIONS) ** 2
        self._files = _KNOWN_BEFORE

    def note(self, ratios: Sequence[float], spreads: Sequence[float]) -> None:
        """Take in the runs of one measurement.

        Args:
            ratios: Of each run: candidate over reference.
            spreads: Half widths of their 95 % intervals, each by what varied within its run.
        """
        shares = np.asarray(ratios, dtype=np.float64) / float(np.mean(ratios))
        within = np.asarray(spreads, dtype=np.float64) / float(np.mean(ratios)) / _DEVIATIONS
        degrees = len(shares) - 1
        # What varied within runs explains a part of it; where their intervals are too wide it would explain too much.
        self._variances += degrees * max(0.0, float(np.var(shares, ddof=1)) - float(np.mean(within**2)))
        self._files += degrees

    @property
    def spread(self) -> float:
        """Half the width of the 95 % interval of a measurement, as a share of it, by what varies between runs alone.

        It is that of one run, though a measurement is the mean of two: runs that follow each other share what lasts
        longer than they do.
        """
        return _DEVIATIONS * math.sqrt(self._variances / self._files)


def one_of_the_runs(settings: TimingSettings) -> TimingSettings:
    """Return how long one run of a measurement takes, so that all of them take what one is allowed."""
    most = max(2, settings.max_blocks // RUNS)
    return replace(
        settings,
        min_blocks=min(most, max(2, settings.min_blocks // RUNS)),
        max_blocks=most,
        max_seconds=settings.max_seconds / RUNS,
    )


def together(runs: Sequence[PairTiming]) -> PairTiming:
    """Return what several runs come to: means; pairs are counted together, the machine is as the last one left it."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(run, name) for run in runs]))

    return PairTiming(
        reference_ms=mean("reference_ms"),
        reference_ms_spread=math.hypot(*(run.reference_ms_spread for run in runs)) / len(runs),
        candidate_ms=mean("candidate_ms"),
        candidate_p95_ms=mean("candidate_p95_ms"),
        ratio=mean("ratio"),
        ratio_spread=math.hypot(*(run.ratio_spread for run in runs)) / len(runs),
        pairs=sum(run.pairs for run in runs),
        runs_per_block=runs[0].runs_per_block,
        waited_share=mean("waited_share"),
        machine=runs[-1].machine,
    )
