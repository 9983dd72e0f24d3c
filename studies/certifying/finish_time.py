"""How long it takes to measure the front again, told by what measuring took while the search ran."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...search.objectives import Objective
from ...search.record import TrialRecord
from ...search.statistics.noise import Differences
from ..results.tables import edge_records, front_records

AFTERWARDS_SECONDS = 10.0
"""What tables, pictures and samples take once all is measured."""

UNKNOWN_SECONDS = 20.0
"""What a new process takes to load, and a file to be measured, where nothing was measured yet."""

_NEWEST = 20
_MOST_OF_THE_TIME = 0.02
"""Share of a search's time that is spent on working this out: with some hundred trials it takes a second."""


@dataclass
class FinishTime:
    """Seconds to leave at the end of a search.

    Args:
        records: Returns the trials as they are now.
        objectives: Those of the study.
        test_samples_x: How many times the samples of validation there are in the test split.
        loading_seconds: What it took to load the task.
        differences: How well differences of files are known; values count as independent without it.
        clock: Seconds that only grow.
    """

    records: Callable[[], Sequence[TrialRecord]]
    objectives: tuple[Objective, ...]
    test_samples_x: float
    loading_seconds: float
    differences: Differences | None = None
    clock: Callable[[], float] = time.monotonic
    _known: float = field(default=UNKNOWN_SECONDS + AFTERWARDS_SECONDS, init=False)
    _not_before: float = field(default=0.0, init=False)

    def __call__(self) -> float:
        """Return them for the front and its edge as they are known now."""
        begin = self.clock()
        if begin >= self._not_before:
            self._known = self.estimate(self.records())
            self._not_before = self.clock() + (self.clock() - begin) / _MOST_OF_THE_TIME
        return self._known

    def estimate(self, records: Sequence[TrialRecord]) -> float:
        """Return how long it takes for the front of these trials: a new process, every file, and one round more.

        Latency may be measured twice more where it decides who belongs to the front; the second round is had where
        there is time.
        """
        front = front_records(records, self.objectives)
        if not front:
            return AFTERWARDS_SECONDS
        files = len(front) + len(edge_records(records, objectives=self.objectives, differences=self.differences))
        measured = [record.outcome for record in records if record.outcome is not None][-_NEWEST:]
        stages = [{stage.stage: stage.seconds for stage in outcome.stages if not stage.cached} for outcome in measured]
        latency = _mean([each["latency"] for each in stages if "latency" in each])
        accuracy = _mean([each["accuracy"] for each in stages if "accuracy" in each])
        # a file is loaded again and again as long as its latency is measured
        each_file = 2 * latency + accuracy * self.test_samples_x
        return self.loading_seconds + files * each_file + (files - 1) * latency / 2 + AFTERWARDS_SECONDS


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else UNKNOWN_SECONDS / 4
