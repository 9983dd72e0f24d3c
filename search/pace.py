"""How long candidates take, told from those that have ended: nothing is begun that cannot end in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..spaces.candidate import Candidate
from .promotable import Training, trainings_of
from .record import TrialRecord

_NEWEST = 20
"""So many of the newest of a kind tell how long the next one takes."""

_USUALLY = 0.9
"""Of these, this share took no longer than what is expected of the next one."""


@dataclass
class Pace:
    """Learns how long candidates take, each from when it is begun until it has ended, waits included.

    Args:
        clock: Seconds that only grow.
    """

    clock: Callable[[], float]
    _begun: dict[int, float] = field(default_factory=dict, init=False)
    _seconds: dict[tuple[str, bool], list[float]] = field(default_factory=dict, init=False)
    _trained: set[Training] = field(default_factory=set, init=False)

    def begin(self, number: int) -> None:
        """Note that a trial's candidate is begun."""
        self._begun[number] = self.clock()

    def learn(self, record: TrialRecord) -> None:
        """Take up a trial that has ended; what was promoted is no measure for the others."""
        begun = self._begun.pop(record.number, None)
        if record.candidate is None or record.outcome is None or record.is_promoted:
            return
        seconds = record.seconds if begun is None else self.clock() - begun
        kind = self._kind(record.candidate)
        self._trained.update(trainings_of(record.candidate))
        self._seconds.setdefault(kind, []).append(seconds)

    def expected(self, candidate: Candidate) -> float:
        """Return how many seconds a candidate is expected to take at most; 0 where nothing like it was seen yet."""
        kind, trains = self._kind(candidate)
        alike = self._seconds.get((kind, trains), [])
        if not alike:  # of another kind, but as dear as far as is known
            alike = [each for (_, trained), found in self._seconds.items() if trained == trains for each in found]
        return _quantile(alike[-_NEWEST:])

    def least(self) -> float:
        """Return how many seconds any candidate takes at least; 0 while none was seen that need not be trained."""
        cheap = (_quantile(found[-_NEWEST:]) for (_, trains), found in self._seconds.items() if not trains)
        return min(cheap, default=0.0)

    def _kind(self, candidate: Candidate) -> tuple[str, bool]:
        """Return what decides how long a candidate takes: its kind, and whether it has to be trained."""
        trains = any(training not in self._trained for training in trainings_of(candidate))
        return candidate.architecture.kind, trains


def _quantile(seconds: list[float]) -> float:
    return sorted(seconds)[min(int(_USUALLY * len(seconds)), len(seconds) - 1)] if seconds else 0.0
