"""What is done while the crew is busy: only then, a piece at a time, and never beside a target that is gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from karui.errors import TargetUnavailable
from karui.search.crew import Answer, Event, Reached
from karui.search.gates import Gates
from karui.search.loop import Budget
from karui.spaces.candidate import Candidate

from .conftest import Log, MakeLoop, known_outcome

LOOKS, SHORT = 30.0, 1.0


class Trains:
    """One candidate at a time that trains for so many seconds of a clock, which only waiting and idle work move on."""

    size = 1

    def __init__(self, trains_seconds: float, idle_seconds: float, pieces: int) -> None:
        self.now = 0.0
        self.trains_seconds = trains_seconds
        self.idle_seconds = idle_seconds
        self.pieces = pieces
        self.told: list[tuple[str, float]] = []
        self.late: list[float] = []
        self._flying: list[tuple[int, Candidate, float]] = []

    def clock(self) -> float:
        return self.now

    def submit(self, ticket: int, candidate: Candidate, gates: Gates | None = None) -> None:
        self._flying.append((ticket, candidate, self.now + self.trains_seconds))

    def wait(self, seconds: float) -> Sequence[Event]:
        self.told.append(("wait", seconds))
        (ticket, candidate, ends) = self._flying[0]
        if ends > self.now + seconds:
            self.now += seconds
            return ()
        self.late.append(max(0.0, self.now - ends))
        self.now = max(self.now, ends)
        self._flying.clear()
        return (Answer(ticket, known_outcome(candidate)),)

    def close(self) -> None:
        self._flying.clear()

    def idle(self) -> bool:
        assert self._flying, "only while a candidate is in flight"
        assert self._flying[0][2] > self.now, "not before one that has ended is settled"
        self.told.append(("idle", self.idle_seconds))
        if not self.pieces:
            return False
        self.pieces -= 1
        self.now += self.idle_seconds
        return True


def test_pieces_are_done_one_by_one_while_a_candidate_trains(make_loop: MakeLoop) -> None:
    crew, log = Trains(trains_seconds=100.0, idle_seconds=7.0, pieces=3), Log()
    loop = make_loop(crew=crew, clock=crew.clock)
    loop.idle = crew.idle
    assert loop.run(Budget(trials=2), log) == "all trials are done"
    piece = [("wait", SHORT), ("idle", 7.0)]
    nothing_left = [("wait", SHORT), ("idle", 7.0), ("wait", LOOKS)]
    # Three pieces of 7 s, with a look of 1 s before each, are 24 of the 100 s; then there is nothing, 31 s at a time.
    assert crew.told == piece * 3 + nothing_left * 3 + nothing_left * 4
    assert crew.now == 200.0
    assert crew.late == [0.0, 0.0]


@pytest.mark.parametrize("idle_seconds", [7.0, 500.0])
def test_a_candidate_that_ends_waits_for_one_piece_at_most(make_loop: MakeLoop, idle_seconds: float) -> None:
    crew = Trains(trains_seconds=10.0, idle_seconds=idle_seconds, pieces=1000)
    loop = make_loop(crew=crew, clock=crew.clock)
    loop.idle = crew.idle
    loop.run(Budget(trials=6), Log())
    assert len(crew.late) == 6
    assert max(crew.late) <= idle_seconds
    assert sum(what == "idle" for what, _ in crew.told) >= 6


def test_without_a_hook_the_crew_is_waited_for_as_ever(make_loop: MakeLoop) -> None:
    crew = Trains(trains_seconds=100.0, idle_seconds=7.0, pieces=3)
    make_loop(crew=crew, clock=crew.clock).run(Budget(trials=1), Log())
    assert crew.told == [("wait", LOOKS)] * 4


class Gone(Trains):
    """The same, where the target is gone for the first candidate that would be measured."""

    gone = 1

    def wait(self, seconds: float) -> Sequence[Event]:
        for event in super().wait(seconds):
            if isinstance(event, Answer) and self.gone:
                self.gone -= 1
                error = TargetUnavailable("gone: pi5")
                error.retry_seconds = 150.0
                return (Reached(event.ticket, "latency"), Answer(event.ticket, error))
            return (event,)
        return ()


def test_nothing_is_done_while_a_candidate_waits_for_its_target(make_loop: MakeLoop) -> None:
    crew, log = Gone(trains_seconds=60.0, idle_seconds=7.0, pieces=1000), Log()
    loop = make_loop(crew=crew, clock=crew.clock)
    at: list[float] = []

    def idle() -> bool:
        at.append(crew.now)
        return crew.idle()

    loop.idle = idle
    loop.run(Budget(trials=6), log)
    assert [event for event, _ in log.events] == ["target unavailable", "target answers again"]
    assert at
    # Gone from the end of the first candidate until that of the second: its target answers that one.
    first, second = (number for number, (what, _) in enumerate(crew.told) if (what, _) == ("wait", LOOKS))
    between = {what for what, _ in crew.told[first : second + 1]}
    assert between == {"wait"}
    assert not [moment for moment in at if 67.0 < moment < 120.0]
