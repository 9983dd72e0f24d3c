"""Patience with a target that does not answer, by a clock that the test moves."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from karui.errors import CandidateFailure, TargetUnavailable
from karui.evaluators.targets.quarantine import (
    FIRST_QUARANTINE_SECONDS,
    LONGEST_QUARANTINE_SECONDS,
    PAUSES_SECONDS,
    Quarantine,
)
from karui.evaluators.targets.target import Target


class Flaky:
    """A target that does what it is told, call by call."""

    name = "pi5"

    def __init__(self, *answers: int | Exception) -> None:
        self.answers: Iterator[int | Exception] = iter(answers)
        self.calls = 0

    def load_peak_bytes(self, path: Path) -> int:
        self.calls += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.paused: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.now += seconds


PATH = Path("any")


def gone() -> TargetUnavailable:
    return TargetUnavailable("it is gone", where="host")


def quarantine(target: Flaky, passing: Time, told: list[str] | None = None) -> Quarantine:
    told = [] if told is None else told
    return Quarantine(cast("Target", target), told.append, passing.clock, passing.sleep)


def test_one_that_comes_back_is_asked_again_after_growing_pauses() -> None:
    passing, told = Time(), list[str]()
    target = Flaky(gone(), gone(), 7)
    assert quarantine(target, passing, told).load_peak_bytes(PATH) == 7
    assert passing.paused == list(PAUSES_SECONDS[:2])
    assert told == [f"pi5 does not answer, trying again in {pause:g} s" for pause in PAUSES_SECONDS[:2]]
    assert list(PAUSES_SECONDS) == sorted(PAUSES_SECONDS)


def test_one_that_stays_away_is_left_alone_until_it_is_time() -> None:
    passing = Time()
    target = Flaky(*[gone()] * 5, 7)
    patient = quarantine(target, passing)
    with pytest.raises(TargetUnavailable, match="it is gone") as raised:
        patient.load_peak_bytes(PATH)
    assert raised.value.retry_seconds == FIRST_QUARANTINE_SECONDS
    calls = target.calls
    passing.now += FIRST_QUARANTINE_SECONDS - 1
    with pytest.raises(TargetUnavailable, match="it is gone") as raised:
        patient.load_peak_bytes(PATH)
    assert (target.calls, raised.value.retry_seconds) == (calls, 1.0)
    passing.now += 1
    with pytest.raises(TargetUnavailable, match="it is gone") as raised:
        patient.load_peak_bytes(PATH)
    assert target.calls == calls + 1, "one in quarantine is asked once"
    assert raised.value.retry_seconds == 2 * FIRST_QUARANTINE_SECONDS
    passing.now += 2 * FIRST_QUARANTINE_SECONDS
    assert patient.load_peak_bytes(PATH) == 7


def test_a_quarantine_has_a_longest_time_and_begins_anew_after_an_answer() -> None:
    passing = Time()
    target = Flaky(*[gone()] * 13, 7, *[gone()] * 4)
    patient = quarantine(target, passing)
    seconds = []
    for _ in range(10):
        with pytest.raises(TargetUnavailable, match="it is gone") as raised:
            patient.load_peak_bytes(PATH)
        seconds.append(raised.value.retry_seconds)
        passing.now += raised.value.retry_seconds
    assert max(seconds) == LONGEST_QUARANTINE_SECONDS
    assert patient.load_peak_bytes(PATH) == 7
    with pytest.raises(TargetUnavailable, match="it is gone") as raised:
        patient.load_peak_bytes(PATH)
    assert raised.value.retry_seconds == FIRST_QUARANTINE_SECONDS


def test_a_failure_of_the_candidate_is_an_answer() -> None:
    target = Flaky(CandidateFailure("load", "no such operator"))
    with pytest.raises(CandidateFailure, match="no such operator"):
        quarantine(target, Time()).load_peak_bytes(PATH)
    assert target.calls == 1


def test_what_is_told_survives_the_way_between_processes() -> None:
    error: Any = gone()
    error.retry_seconds = 12.0
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.what, copied.where, copied.retry_seconds, str(copied)) == ("it is gone", "host", 12.0, str(error))
