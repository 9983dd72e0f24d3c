"""What begins trials: asked of the sampler, of the queue, or of promotion, as long as the crew has hands free."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import Trial

from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace, problem_of
from .crew import Crew
from .gates import Gates
from .record import write_begin, write_candidate
from .settling import Settling

TIME_IS_UP = "the time is up"

STOPPED_PER_TRIAL = 10
"""How many stopped candidates a search bears for each trial of its budget before it ends: each costs a little."""

MOST_FINISHING = 0.5
"""Most of a search's time that is left for what comes after it."""

_REPEATS_BEFORE_PICKING = 4


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        trials: Candidates that are evaluated or fail, in all searches of the study together; duplicates, impossible
            ones, those that a gate stops, and those that are promoted do not count.
        seconds: Wall-clock time of this run, promotion and what comes after it included; None for no limit. No
            candidate is begun that is not expected to end within it, and what has not ended by then is begun again by
            the next run.
        finishing: How many seconds of it are to be left for what comes after, as things stand.
    """

    trials: int
    seconds: float | None = None
    finishing: Callable[[], float] = lambda: 0.0

    @property
    def most_finishing(self) -> float:
        """How many seconds are left for what comes after; of a short run no more than a part."""
        return 0.0 if self.seconds is None else min(self.finishing(), MOST_FINISHING * self.seconds)


@dataclass
class Beginning:
    """Begins the trials of one run.

    Args:
        settling: Holds them, and settles those that there is no use in.
        space: What may be chosen.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        crew: Makes and measures candidates.
        owner: The mark of this search.
        clock: Seconds that only grow.
    """

    settling: Settling
    space: SearchSpace
    canonical: Callable[[Candidate], Candidate]
    crew: Crew
    owner: dict[str, Any]
    clock: Callable[[], float] = time.monotonic
    _repeats: int = field(default=0, init=False)
    _left: float = field(default=math.inf, init=False)
    _is_late: bool = field(default=False, init=False)

    def try_again(self) -> None:
        """Begin again who waits for its target, or met an error that is not its own, where it makes sense."""
        settling = self.settling
        while settling.in_flight < self.crew.size and (ticket := settling.waiting.next()) is not None:
            # Without gates: it has passed them, and its training is done.
            self.crew.submit(ticket, self._candidate_of(ticket))
        while settling.in_flight < self.crew.size and (ticket := settling.next_faulted()) is not None:
            self._submit_again(ticket)

    def try_last(self, end: float | None) -> None:
        """Begin one of those again that met an error which is not theirs, nothing else being left; no more in time."""
        if self.left(end) <= 0:
            self.settling.interrupt(self.settling.faulted)
        elif (ticket := self.settling.next_faulted(nothing_else=True)) is not None:
            self._submit_again(ticket)

    def _submit_again(self, ticket: int) -> None:
        candidate = self._candidate_of(ticket)
        self.crew.submit(ticket, candidate, self._gates_for(candidate))

    def _candidate_of(self, ticket: int) -> Candidate:
        return Candidate.from_dict(self.settling.trials[ticket].user_attrs["candidate"])

    def fill(self, budget: Budget, end: float | None) -> str | None:
        """Begin candidates until the crew is busy; else return in a sentence why no more are begun."""
        settling, trials = self.settling, budget.trials
        while settling.in_flight < self.crew.size:
            if settling.ledger.promised >= trials:
                return "all trials are done"
            if settling.gatekeeper is not None and settling.ledger.stopped >= STOPPED_PER_TRIAL * trials:
                stopped = f"the gates stopped {settling.ledger.stopped} candidates"
                return f"{stopped}, {STOPPED_PER_TRIAL} for each trial asked for"
            reserved = settling.promotion.reserve(self.crew.size, budget.seconds)
            self._left = self.left(end) - reserved
            if self._is_late or self._left <= 0 or self._left < settling.pace.least():
                return TIME_IS_UP
            with settling.turns():
                settling.take_in()
                if settling.ledger.promised >= trials:
                    return "all trials are done"
                if self._repeats >= _REPEATS_BEFORE_PICKING and not settling.asking.queue_unknown():
                    return "every candidate of the space has been tried"
                self._ask()
        return None

    def fill_with_promoted(self, end: float | None) -> str | None:
        """Begin what is to be promoted until the crew is busy; else return in a sentence why no more are begun."""
        settling = self.settling
        while settling.in_flight < self.crew.size:
            if self.left(end) <= 0:
                return TIME_IS_UP
            self._left = math.inf  # whoever is promoted is chosen by the time that is left
            with settling.turns():
                settling.take_in()
                promoted = settling.promotion.begin(self.owner, self.left(end))
                if promoted is None:
                    return "all of the front are promoted"
                self._take_up(*promoted)
        return None

    def left(self, end: float | None) -> float:
        """Return how many seconds are left until then; infinity where there is no end."""
        return math.inf if end is None else end - self.clock()

    def _ask(self) -> None:
        """Ask for one trial, and begin its candidate unless there is no use in it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.settling.study.ask()
        self.settling.trials[trial.number] = trial
        trial.set_user_attr("owner", self.owner)
        self._take_up(trial, self.canonical(self.space.suggest(trial)))

    def _take_up(self, trial: Trial, candidate: Candidate) -> None:
        """Begin a trial's candidate unless there is no use in it."""
        settling = self.settling
        settling.trials[trial.number] = trial
        write_candidate(trial, candidate)
        if not settling.turns.exclusive:
            settling.take_in()  # somebody may have begun the same meanwhile
        if (problem := problem_of(candidate)) is not None:
            settling.stop(trial, "impossible", "architecture", problem)
        elif (twin := settling.ledger.holder(candidate.key, trial.number)) is not None:
            settling.stop(trial, "duplicate", "", f"means the same as trial {twin}")
            settling.asking.queue_sibling(trial)
        elif settling.pace.expected(candidate) > self._left:
            self._is_late = True
            settling.leave(trial)
            return
        else:
            self._repeats = 0
            write_begin(trial)
            settling.pace.begin(trial.number)
            settling.ledger.begin(trial.number, candidate)
            settling.listener.begun(trial.number, candidate)
            self.crew.submit(trial.number, candidate, self._gates_for(candidate))
            return
        self._repeats += 1
        settling.finish(trial)

    def _gates_for(self, candidate: Candidate) -> Gates | None:
        gatekeeper = self.settling.gatekeeper
        if gatekeeper is None or candidate.epochs_factor > 1:  # what is promoted has reached the front already
            return None
        return gatekeeper.gates_for(candidate.key)
