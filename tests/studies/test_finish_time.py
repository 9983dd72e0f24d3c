"""How long it takes to measure a front again, as a search leaves time for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from karui.search.objectives import OBJECTIVES
from karui.search.record import TrialRecord
from karui.spaces.artifact import StageRecord
from karui.studies.certifying.finish_time import AFTERWARDS_SECONDS, FinishTime

from .conftest import make_record


def measured(number: int, size: float, latency: float, accuracy: float) -> TrialRecord:
    record = make_record(number, size, latency, accuracy)
    assert record.outcome is not None
    stages = (StageRecord("latency", 3.0, cached=False), StageRecord("accuracy", 2.0, cached=False))
    return replace(record, outcome=replace(record.outcome, stages=stages))


def test_every_file_takes_its_time_and_the_process_as_well() -> None:
    time = FinishTime(list, OBJECTIVES, test_samples_x=4.0, loading_seconds=7.0)
    assert time.estimate([]) == AFTERWARDS_SECONDS
    # smaller and less accurate each, so that all are on the front, and none is near another
    front = [measured(number, 100.0 - 20 * number, 10.0, 0.9 - 0.2 * number) for number in range(4)]
    each = 2 * 3.0 + 4.0 * 2.0
    assert time.estimate(front) == pytest.approx(7.0 + 4 * each + 3 * 1.5 + AFTERWARDS_SECONDS)
    dominated = measured(9, 1000.0, 100.0, 0.1)
    assert time.estimate([*front, dominated]) == time.estimate(front)


def test_it_is_not_worked_out_all_the_time() -> None:
    now, reads = [0.0], 0

    def records() -> list[TrialRecord]:
        nonlocal reads
        reads += 1
        now[0] += 1.0  # which takes a second
        return []

    time = FinishTime(records, OBJECTIVES, 1.0, 1.0, clock=lambda: now[0])
    for _ in range(1000):
        time()
        now[0] += 0.5
    assert reads == pytest.approx(500 / 51, abs=1)
