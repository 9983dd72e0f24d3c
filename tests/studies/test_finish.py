"""What tells one front that was measured again from another."""

from __future__ import annotations

import pytest

from karui.search.record import TrialRecord
from karui.studies.finish import certified_mark


def trial(number: int, state: str) -> TrialRecord:
    return TrialRecord(number, state, "", "", {}, None, None, feasible=state == "evaluated", seconds=1.0)


@pytest.mark.parametrize("state", ["evaluated", "failed", "duplicate", "stopped", "interrupted"])
def test_a_trial_in_flight_makes_another_front_when_it_has_ended(state: str) -> None:
    front = [trial(0, "evaluated")]
    marks = [certified_mark([*front, trial(1, now)], front) for now in ("waiting", "running", state)]
    assert marks[0] == marks[1] == certified_mark(front, front)
    assert marks[2] != marks[1]


def test_another_front_of_as_many_trials_is_another() -> None:
    trials = [trial(0, "evaluated"), trial(1, "evaluated")]
    assert certified_mark(trials, trials[:1]) != certified_mark(trials, trials[1:])
    assert certified_mark(trials, trials) == certified_mark(list(trials), list(trials))
