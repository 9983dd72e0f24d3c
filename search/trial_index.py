"""What is known of a study's trials: who has which candidate, taken in bit by bit, and how long candidates take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..spaces.candidate import Candidate
from .heartbeat import Heartbeat
from .outcome import Training, trainings_of
from .record import TrialRecord, read_record


class TrialIndex:
    """Which candidates have ended, and which are in flight, in whatever search.

    Optuna keeps trials that have ended in memory, so that a look costs one query for those that have not.

    Args:
        study: The study.
        heartbeat: Tells whose a running trial is.
        stopped_are_known: Whether candidates that a gate has stopped are not to be tried again.
    """

    def __init__(self, study: optuna.Study, heartbeat: Heartbeat, *, stopped_are_known: bool = True) -> None:
        self._study = study
        self._heartbeat = heartbeat
        self._ended: set[int] = set()
        self._known: dict[str, int] = {}
        self._elsewhere: dict[int, tuple[str, bool]] = {}
        self._own: dict[int, str] = {}
        self._keys: dict[int, str] = {}
        self._promoted: set[str] = set()
        self._stopped_are_known = stopped_are_known
        self.spent = 0
        self.stopped = 0

    @property
    def known(self) -> Mapping[str, int]:
        """The trial of each candidate, by key, that was evaluated, failed of itself, or was stopped for good."""
        return self._known

    @property
    def own(self) -> Mapping[int, str]:
        """Keys of the candidates that this search has in flight, by trial."""
        return self._own

    @property
    def promised(self) -> int:
        """How many trials count towards the budget, or will once they have ended."""
        own = sum(key not in self._promoted for key in self._own.values())
        return self.spent + own + sum(begun and key not in self._promoted for key, begun in self._elsewhere.values())

    def take_in(self) -> list[TrialRecord]:
        """Look at the study again; return the trials that have ended since the last look."""
        elsewhere: dict[int, tuple[str, bool]] = {}
        finished = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.number in self._ended:
                continue
            if trial.state.is_finished():
                finished.append(trial)
            elif trial.state == TrialState.RUNNING and self._is_elsewhere(trial):
                elsewhere[trial.number] = (self._key_of(trial), "begun" in trial.user_attrs)
        self._elsewhere = elsewhere
        # In the order in which they ended: a search that goes on learns as it would have, had it not been stopped.
        finished.sort(key=lambda trial: (trial.datetime_complete or datetime.min, trial.number))
        return [self._enter(trial) for trial in finished]

    def begin(self, number: int, candidate: Candidate) -> None:
        """Note that this search begins a candidate."""
        self._own[number] = self._note(candidate)

    def end(self, number: int) -> None:
        """Note that this search has nothing more to do with a trial."""
        self._own.pop(number, None)

    def holder(self, key: str, number: int) -> int | None:
        """Return the trial that has the candidate already, or begins it and comes before the trial of this number."""
        if key in self._known:
            return self._known[key]
        for other, found in self._own.items():
            if found == key and other != number:
                return other
        for other, (found, begun) in self._elsewhere.items():
            if found == key and (begun or other < number):
                return other
        return None

    def is_claimed_later(self, key: str, number: int) -> bool:
        """Say whether a trial that comes after that of this number has claimed the candidate, and not begun it yet.

        It yields to the earlier one, unless it looked before that was there.
        """
        later = (begun for other, (found, begun) in self._elsewhere.items() if found == key and other > number)
        return any(not begun for begun in later)

    def is_new(self, key: str) -> bool:
        """Say whether no trial has the candidate, neither ended nor in flight."""
        in_flight = (found for found, _ in self._elsewhere.values())
        return key not in self._known and key not in self._own.values() and key not in in_flight

    def _is_elsewhere(self, trial: FrozenTrial) -> bool:
        attributes = trial.user_attrs
        if "candidate" not in attributes or "status" in attributes or self._heartbeat.is_own(trial):
            return False
        return not self._heartbeat.is_gone(trial)

    def _key_of(self, trial: FrozenTrial) -> str:
        if trial.number not in self._keys:
            self._keys[trial.number] = self._note(Candidate.from_dict(trial.user_attrs["candidate"]))
        return self._keys[trial.number]

    def _note(self, candidate: Candidate) -> str:
        """Return the key of a candidate in flight; those that are promoted come on top of the budget."""
        if candidate.epochs_factor > 1:
            self._promoted.add(candidate.key)
        return candidate.key

    def _enter(self, trial: FrozenTrial) -> TrialRecord:
        record = read_record(trial)
        self._ended.add(trial.number)
        self._keys.pop(trial.number, None)
        if counts(record):
            self.spent += not record.is_promoted
            self._known[record.key] = record.number
        elif record.state == "stopped" and self._stopped_are_known:
            self.stopped += 1
            self._known[record.key] = record.number
        return record


def counts(record: TrialRecord) -> bool:
    """Say whether a trial counts towards the budget: its candidate was evaluated, or failed of itself.

    Where it was promoted, it came on top of the budget, but is known no less.
    """
    return record.state in ("evaluated", "failed")


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
