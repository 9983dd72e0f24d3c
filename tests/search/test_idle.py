"""What is done while workers are busy: only then, a piece at a time, and never beside a target that is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from karui.errors import TargetUnavailable
from karui.search import runner
from karui.search.executor import tell_nobody
from karui.search.loop import Budget
from karui.search.outcome import Result
from karui.search.stopping.pruning_rules import PruningRules
from karui.spaces.candidate import Candidate

from .conftest import Log, MakeLoop, known_outcome

LOOK = 0.02


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOKS_EVERY_SECONDS", LOOK)


class Trains:
    """One candidate at a time, which trains until so many pieces were done beside it, or for so many looks."""

    size, is_here = 1, False

    def __init__(self, pieces: int, gone: int = 0) -> None:
        self.on_stage: Callable[[int, str], None] = tell_nobody
        self.pieces, self.gone = pieces, gone
        self.flying = threading.Event()
        self.beside: list[int] = []
        self.done = threading.Semaphore(0)

    def run(self, number: int, candidate: Candidate, gates: PruningRules | None = None) -> Result:
        self.beside.append(0)
        self.flying.set()
        for _ in range(self.pieces):
            self.done.acquire(timeout=10 * LOOK)
        self.flying.clear()
        if self.gone:
            self.gone -= 1
            error = TargetUnavailable("gone: pi5")
            error.retry_seconds = 1e6
            return error
        return known_outcome(candidate)

    def close(self) -> None:
        pass

    def idle(self) -> bool:
        assert threading.current_thread() is threading.main_thread()
        if self.flying.is_set():
            self.beside[-1] += 1
            self.done.release()
        return True


def test_pieces_are_done_one_by_one_while_a_candidate_trains(make_loop: MakeLoop) -> None:
    trains = Trains(pieces=3)
    loop = make_loop(executor=trains)
    loop.idle = trains.idle
    assert loop.run(Budget(trials=2), Log()) == "all trials are done"
    assert len(trains.beside) == 2
    assert min(trains.beside) >= 1


def test_nothing_is_done_while_a_candidate_waits_for_its_target(make_loop: MakeLoop) -> None:
    trains, log = Trains(pieces=1, gone=1), Log()
    loop = make_loop(executor=trains)
    loop.idle = trains.idle
    loop.run(Budget(trials=4), log)
    assert [event for event, _ in log.events] == ["target unavailable", "target answers again"]
    assert len(trains.beside) == 5
    # Gone from the end of the first candidate until that of the second: its target answers that one.
    assert trains.beside[1] == 0
    assert sum(trains.beside[2:]) >= 1
