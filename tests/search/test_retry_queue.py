"""A target that does not answer: candidates wait, others go on, and nothing is lost if it never comes back."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from karui.errors import TargetUnavailable
from karui.search.faults.retry_queue import LEAST_PAUSE_SECONDS, PATIENCE_SECONDS, RetryQueue
from karui.search.loop import Budget, SearchLoop
from karui.search.outcome import Outcome
from karui.search.record import read_records
from karui.spaces.candidate import Candidate
from karui.studies.workers.pool import Workers

from .conftest import Log, MakeLoop, known_outcome


class Device:
    """Evaluates candidates, a minute each, on a device that is there at some times only."""

    def __init__(self, gone_from: float, gone_to: float, retry_seconds: float = 60.0) -> None:
        self.now = 0.0
        self.gone = (gone_from, gone_to)
        self.retry_seconds = retry_seconds
        self.made: list[str] = []
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds

    def evaluate(self, candidate: Candidate, *_: object) -> Outcome:
        self.now += 0.0 if candidate.key in self.made else 60.0
        self.made.append(candidate.key)
        if self.gone[0] <= self.now < self.gone[1]:
            error = TargetUnavailable(
                "target pi5 does not answer", where="pi@pi5", got="no route", remedy="switch it on"
            )
            error.retry_seconds = self.retry_seconds
            raise error
        return known_outcome(candidate)


def loop_on(device: Device, make_loop: MakeLoop) -> SearchLoop:
    return make_loop(device.evaluate, clock=device.clock, sleep=device.sleep)


def test_what_cannot_be_measured_waits_while_others_are_made(make_loop: MakeLoop) -> None:
    device, log = Device(gone_from=150.0, gone_to=400.0), Log()
    loop = loop_on(device, make_loop)
    assert loop.run(Budget(trials=12), log) == "all trials are done"
    assert {record.state for record in log.records} <= {"evaluated", "duplicate"}
    assert sum(record.state == "evaluated" for record in log.records) == 12
    assert len(set(log.begun_keys)) == len(log.begun_keys) == 12, "begun once, however often it was tried"
    events = [event for event, _ in log.events]
    assert events[-1] == "target answers again"
    assert set(events[:-1]) == {"target unavailable"}
    assert [details["is_news"] for event, details in log.events[:-1]] == [True] + [False] * (len(events) - 2)
    assert device.slept == [], "there was always something else to do"
    order = [record.number for record in log.records if record.state == "evaluated"]
    assert order != sorted(order), "others came to their end before those that waited"


def test_a_target_that_is_gone_is_tried_by_one_candidate_at_a_time(make_loop: MakeLoop) -> None:
    device, log = Device(gone_from=100.0, gone_to=600.0, retry_seconds=125.0), Log()
    loop_on(device, make_loop).run(Budget(trials=12), log)
    again = [key for number, key in enumerate(device.made) if key in device.made[:number]]
    gone = [details["trial"] for event, details in log.events if event == "target unavailable"]
    assert len(again) == len(gone), "each time that it failed it was tried once more"
    # Made one a minute from 120 s on; tried again not before 125 s later, each time by one of those that wait.
    assert len(gone) - len(set(gone)) <= (600 - 100) // 125


def test_at_the_end_a_search_waits_for_its_target(make_loop: MakeLoop) -> None:
    device, log = Device(gone_from=150.0, gone_to=500.0), Log()
    assert loop_on(device, make_loop).run(Budget(trials=4), log) == "all trials are done"
    assert sum(record.state == "evaluated" for record in log.records) == 4
    assert device.slept == [60.0] * len(device.slept)
    assert device.slept


def test_a_target_that_comes_back_late_is_tried_once_more_before_the_end(make_loop: MakeLoop) -> None:
    # Gone for longer than all patience while 19 are made; left alone for 16 minutes, it is back in the middle of them.
    device, log = Device(gone_from=150.0, gone_to=1190.0, retry_seconds=960.0), Log()
    assert loop_on(device, make_loop).run(Budget(trials=19), log) == "all trials are done"
    assert sum(record.state == "evaluated" for record in log.records) == 19


def test_a_search_whose_target_stays_away_ends_and_goes_on_later(make_loop: MakeLoop) -> None:
    device, log = Device(gone_from=150.0, gone_to=float("inf")), Log()
    loop = loop_on(device, make_loop)
    with pytest.raises(
        TargetUnavailable, match=r"(?s)pi5 does not answer; 3 candidates wait.*same command.*switch it on"
    ):
        loop.run(Budget(trials=5), log)
    assert PATIENCE_SECONDS <= device.now - 180 <= PATIENCE_SECONDS + 3 * 60 + 60
    records = read_records(loop.study)
    assert "failed" not in {record.state for record in records}
    assert len(loop.study.get_trials(states=(TrialState.RUNNING,))) == 0
    device.gone = (0.0, 0.0)
    made = set(device.made)
    assert loop_on(device, make_loop).run(Budget(trials=5), log) == "all trials are done"
    assert set(device.made) == made, "nothing was made that was not made before"
    evaluated = [record for record in read_records(loop.study) if record.state == "evaluated"]
    assert {record.key for record in evaluated} == made


def test_a_search_whose_time_is_up_does_not_wait(make_loop: MakeLoop) -> None:
    device = Device(gone_from=0.0, gone_to=float("inf"))
    with pytest.raises(TargetUnavailable, match="candidates wait to be measured"):
        loop_on(device, make_loop).run(Budget(trials=100, seconds=300.0), Log())
    assert device.now == 300.0


def test_one_that_waits_may_still_fail_or_be_measured_as_any_other() -> None:
    times = iter(range(1000))
    waiting = RetryQueue(lambda: float(next(times)))
    waiting.add(1, TargetUnavailable("gone"))
    waiting.add(2, TargetUnavailable("gone"))
    tried = list[int]()
    while not tried:
        tried += [number for number in [waiting.next()] if number is not None]
    assert next(times) >= LEAST_PAUSE_SECONDS
    assert waiting.next() is None, "one at a time"
    assert not waiting.ended(1, answered=False)
    assert waiting.next() == 2, "the first one failed of itself, so that the target is tried by the next"
    assert waiting.ended(2, answered=True)
    assert waiting.error is None


def test_a_worker_that_finds_no_target_goes_on_with_others(make_loop: MakeLoop, factory_module: str) -> None:
    """Through real worker processes: what is told of the target survives, and the worker takes the next candidate."""
    from importlib import import_module

    factory = import_module(factory_module).Absent(missing=2)
    log, slept = Log(), list[float]()
    with_workers = Workers(1, factory, candidate_seconds=60.0)
    times = iter(range(0, 100_000, 30))
    loop = make_loop(executor=with_workers, clock=lambda: float(next(times)), sleep=slept.append)
    assert loop.run(Budget(trials=4), log) == "all trials are done"
    assert [details["reason"] for event, details in log.events if event == "target unavailable"] == ["gone: pi5"] * 2
    assert sum(record.state == "evaluated" for record in log.records) == 4


ABSENT = '''
from karui.errors import TargetUnavailable
from karui.evaluators.measurement import Measurement
from karui.search.outcome import Outcome


class Absent:
    """Makes an evaluation during whose first calls the target is missing."""

    def __init__(self, missing):
        self.missing = missing

    def __call__(self, announce):
        return self.evaluate

    def evaluate(self, candidate):
        self.missing -= 1
        if self.missing >= 0:
            raise TargetUnavailable("gone: pi5")
        size_bytes = 1000.0 * candidate.weight_bits
        named = (("size_bytes", size_bytes, "bytes"), ("latency_ms", 1.0, "ms"), ("accuracy", 0.9, "1"))
        return Outcome({name: Measurement(name, value, unit) for name, value, unit in named}, digest=candidate.key)
'''


@pytest.fixture
def factory_module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path_factory.mktemp("absent")
    (folder / "absent_target.py").write_text(ABSENT)
    monkeypatch.syspath_prepend(str(folder))
    return "absent_target"
