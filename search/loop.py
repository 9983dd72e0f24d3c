"""The search loop: ask, suggest, have candidates made and measured, tell; resumable at every step."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from ..errors import CandidateStopped, TargetUnavailable
from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace, problem_of
from .asking import Asking
from .crew import Answer, Crew, Event, Reached
from .gatekeeper import Gatekeeper
from .gates import Gates
from .ledger import Ledger
from .listener import Listener
from .objectives import Objective
from .outcome import Ending, Outcome, UnexpectedError, WorkerLost
from .owners import Owners
from .promotion import Promotion
from .record import TrialRecord, write_begin, write_candidate, write_end, write_outcome
from .sampler import SamplerName, make_sampler
from .stale import interrupt, recover_stale
from .surprises import Surprises
from .turns import Alone, Turns
from .waiting import PATIENCE_SECONDS, Waiting

STOPPED_PER_TRIAL = 10
"""How many stopped candidates a search bears for each trial of its budget before it ends: each costs a little."""

_REPEATS_BEFORE_PICKING = 4
_LOOKS_EVERY_SECONDS = 30.0
_IDLE_AFTER_SECONDS = 1.0
_RECOVERS_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        trials: Candidates that are evaluated or fail, in all searches of the study together; duplicates, impossible
            ones, those that a gate stops, and those that are promoted do not count.
        seconds: Wall-clock time of this run, promotion included; None for no limit. No candidate is begun after it.
    """

    trials: int
    seconds: float | None = None


@dataclass
class SearchLoop:
    """Searches one Optuna study until its budget is spent or its space is exhausted.

    Args:
        study: The Optuna study; its directions match the objectives.
        space: What may be chosen.
        objectives: Names, directions, bounds, in the order of the study's directions.
        baseline: The baseline's value of each objective and limit, for relative bounds.
        crew: Makes and measures candidates, as many at a time as it has members.
        sampler: Name of the sampler.
        seed: Seed of the sampler; a resumed search goes on with other random numbers than it began with.
        followers: How many trials that differ in nothing but bits are queued after each newly trained network, since
            they cost next to nothing; the sampler chooses their bits.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        gatekeeper: Makes the gates that candidates have to pass; None for no gates, and then candidates that a gate
            once stopped may be tried again.
        final_factor: So many times the epochs the networks of the front are trained anew at the end; 1 for no times.
        turns: How searches that share the study take turns.
        limits: What has a bound without being an objective.
        idle: Does one short piece of work while the crew is busy and no target is gone, and says whether there was any.
            A candidate that has ended meanwhile waits for that piece, and for no further one.
        clock: Seconds that only grow.
        sleep: Waits for so many seconds.
    """

    study: optuna.Study
    space: SearchSpace
    objectives: Sequence[Objective]
    baseline: Mapping[str, float]
    crew: Crew
    sampler: SamplerName = "tpe"
    seed: int = 0
    followers: int = 0
    canonical: Callable[[Candidate], Candidate] = Candidate.canonical
    gatekeeper: Gatekeeper | None = None
    final_factor: int = 1
    turns: Turns = field(default_factory=Alone)
    limits: Sequence[Objective] = ()
    idle: Callable[[], bool] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _trials: dict[int, Trial] = field(default_factory=dict, init=False)
    _repeats: int = field(default=0, init=False)
    _surprises: Surprises = field(default_factory=Surprises, init=False)
    _recovered_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._owners = Owners(self.study, self.turns.exclusive)
        self._ledger = Ledger(self.study, self._owners, stopped_are_known=self.gatekeeper is not None)
        self._promotion = Promotion(self.study, self.objectives, self._ledger, self.final_factor)
        self._waiting = Waiting(self.clock)

    def run(self, budget: Budget, listener: Listener, first: Sequence[Mapping[str, Any]] = ()) -> str:
        """Search, and return in one sentence why it ended; the crew is closed.

        Args:
            budget: When to end.
            listener: Is told of every trial.
            first: Parameters of trials to begin with, where the study is new.

        Raises:
            TargetUnavailable: Where all that is left waits for a target that does not answer; likewise.
            KaruiError: Where it makes no sense to go on; the candidates in flight are queued again first.
            KeyboardInterrupt: When interrupted; likewise.
        """
        with self._owners:
            try:
                self._begin(listener, first)
                return self._search(budget, listener)
            except BaseException:
                # Whatever stops the search (Ctrl-C, a full disk, a bug), the candidates in flight are not lost.
                self.crew.close()
                self._interrupt_all(listener)
                raise
            finally:
                self.crew.close()

    def recover_stale(self, listener: Listener | None = None) -> int:
        """Take up what a killed search left running; return how many trials were found stale."""
        self._recovered_at = time.monotonic()
        stale = recover_stale(self.study, self._owners, [objective.name for objective in self.objectives])
        if listener is not None:
            for trial in stale:
                listener.happened("stale trial", trial=trial.number, owner=trial.user_attrs.get("owner"))
        return len(stale)

    def _begin(self, listener: Listener, first: Sequence[Mapping[str, Any]]) -> None:
        self._asking = Asking(self.study, self.space, self._ledger, self.canonical, self.seed, self.followers)
        with self.turns():
            self.recover_stale(listener)
            for record in self._ledger.take_in():
                self._learn(record)
            trials = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = make_sampler(self.sampler, self.seed + trials)
            if not trials:
                self._asking.queue_first(first)

    def _search(self, budget: Budget, listener: Listener) -> str:
        end = None if budget.seconds is None else self.clock() + budget.seconds
        ending = self._work(lambda: self._fill(budget, end, listener), end, listener)
        if missing := len(self._promotion.missing(self._left(end))):
            listener.happened("promotion begun", candidates=missing, epochs_factor=self.final_factor)
            self._work(lambda: self._fill_with_promoted(end, listener), end, listener)
        return self._promotion.describe(ending)

    def _work(self, fill: Callable[[], str | None], end: float | None, listener: Listener) -> str:
        """Have candidates evaluated until no more are begun, and return why that is."""
        idle_since: float | None = None
        while True:
            self._try_again()
            ending = fill()
            if not self._in_flight and len(self._waiting):
                idle_since = self.clock() if idle_since is None else idle_since
                self._wait_for_target(end, idle_since)
                continue
            if not self._trials:
                with self.turns():  # who ends last leaves nothing of those that were killed meanwhile
                    self.recover_stale(listener)
                return ending or "all trials are done"
            answered = False
            while not answered:
                for event in self._wait():
                    if isinstance(event, Reached):
                        listener.reached(event.ticket, event.stage)
                    else:
                        self._settle(event, listener)
                        answered = True
                if time.monotonic() - self._recovered_at >= _RECOVERS_EVERY_SECONDS:
                    with self.turns():
                        self.recover_stale(listener)

    def _wait(self) -> Sequence[Event]:
        """Return what has happened in the crew; where nothing has for a moment, do what can be done meanwhile."""
        if self.idle is not None and not len(self._waiting):
            events = self.crew.wait(_IDLE_AFTER_SECONDS)
            if events or self.idle():
                return events
        return self.crew.wait(_LOOKS_EVERY_SECONDS)

    def _left(self, end: float | None) -> float:
        return math.inf if end is None else end - self.clock()

    @property
    def _in_flight(self) -> int:
        return len(self._trials) - len(self._waiting)

    def _try_again(self) -> None:
        """Begin candidates again that wait for their target, where it makes sense."""
        while self._in_flight < self.crew.size and (ticket := self._waiting.next()) is not None:
            # Without gates: it has passed them, and its training is done.
            self.crew.submit(ticket, Candidate.from_dict(self._trials[ticket].user_attrs["candidate"]))

    def _wait_for_target(self, end: float | None, idle_since: float) -> None:
        """Pass the time until the target is tried again, where nothing else is left to do."""
        left = PATIENCE_SECONDS if end is None else end - self.clock()
        if self._waiting.is_hopeless(idle_since) or left <= 0:
            raise self._waiting.ending()
        self.sleep(min(left, self._waiting.pause_seconds))

    def _fill(self, budget: Budget, end: float | None, listener: Listener) -> str | None:
        """Begin candidates until the crew is busy; else return in a sentence why no more are begun."""
        trials = budget.trials
        while self._in_flight < self.crew.size:
            if self._ledger.promised >= trials:
                return "all trials are done"
            if self.gatekeeper is not None and self._ledger.stopped >= STOPPED_PER_TRIAL * trials:
                stopped = f"the gates stopped {self._ledger.stopped} candidates"
                return f"{stopped}, {STOPPED_PER_TRIAL} for each trial asked for"
            reserved = self._promotion.reserve(self.crew.size, budget.seconds)
            if end is not None and self.clock() >= end - reserved:
                return "the time is up"
            with self.turns():
                self._take_in(listener)
                if self._ledger.promised >= trials:
                    return "all trials are done"
                if self._repeats >= _REPEATS_BEFORE_PICKING and not self._asking.queue_unknown():
                    return "every candidate of the space has been tried"
                self._ask(listener)
        return None

    def _fill_with_promoted(self, end: float | None, listener: Listener) -> str | None:
        """Begin what is to be promoted until the crew is busy; else return in a sentence why no more are begun."""
        while self._in_flight < self.crew.size:
            if end is not None and self.clock() >= end:
                return "the time is up"
            with self.turns():
                self._take_in(listener)
                promoted = self._promotion.begin(self._owners.mark, self._left(end))
                if promoted is None:
                    return "all of the front are promoted"
                self._take_up(*promoted, listener)
        return None

    def _ask(self, listener: Listener) -> None:
        """Ask for one trial, and begin its candidate unless there is no use in it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask()
        self._trials[trial.number] = trial
        trial.set_user_attr("owner", self._owners.mark)
        self._take_up(trial, self.canonical(self.space.suggest(trial)), listener)

    def _take_up(self, trial: Trial, candidate: Candidate, listener: Listener) -> None:
        """Begin a trial's candidate unless there is no use in it."""
        self._trials[trial.number] = trial
        write_candidate(trial, candidate)
        if not self.turns.exclusive:
            self._take_in(listener)  # somebody may have begun the same meanwhile
        if (problem := problem_of(candidate)) is not None:
            self._stop(trial, "impossible", "architecture", problem)
        elif (twin := self._ledger.holder(candidate.key, trial.number)) is not None:
            self._stop(trial, "duplicate", "", f"means the same as trial {twin}")
            self._asking.queue_sibling(trial)
        else:
            self._repeats = 0
            write_begin(trial)
            self._ledger.begin(trial.number, candidate)
            listener.begun(trial.number, candidate)
            self.crew.submit(trial.number, candidate, self._gates_for(candidate))
            return
        self._repeats += 1
        self._finish(trial, listener)

    def _gates_for(self, candidate: Candidate) -> Gates | None:
        if self.gatekeeper is None or candidate.epochs_factor > 1:  # what is promoted has reached the front already
            return None
        return self.gatekeeper.gates_for(candidate.key)

    def _settle(self, answer: Answer, listener: Listener) -> None:
        """Tell what came of a candidate; one whose target does not answer is not told, but waits."""
        if isinstance(answer.result, TargetUnavailable):
            self._postpone(answer.ticket, answer.result, listener)
            return
        if self._waiting.ended(answer.ticket, answered=isinstance(answer.result, Outcome)):
            listener.happened("target answers again", candidates=len(self._waiting))
        trial = self._trials[answer.ticket]
        with self.turns():
            if not self.turns.exclusive:
                self._take_in(listener)
            try:
                self._tell(trial, answer.result, listener)
            except optuna.exceptions.UpdateFinishedTrialError:
                listener.happened("trial was taken over by another search", trial=trial.number)
            self._finish(trial, listener)
        self._surprises.note(answer.result)

    def _postpone(self, ticket: int, error: TargetUnavailable, listener: Listener) -> None:
        is_news = self._waiting.error is None
        self._waiting.add(ticket, error)
        listener.reached(ticket, "waiting for its target")
        told = {"reason": error.what, "got": error.got, "again_in_seconds": round(self._waiting.pause_seconds)}
        listener.happened("target unavailable", trial=ticket, is_news=is_news, **told)

    def _tell(self, trial: Trial, result: Ending, listener: Listener) -> None:
        twin = self._ledger.known.get(self._ledger.own[trial.number])
        if twin is not None:  # only where searches take no turns
            self._stop(trial, "duplicate", "", f"trial {twin} of another search came to its end first")
            return
        if isinstance(result, Outcome):
            self._keep(trial, result)
            self._asking.queue_followers(trial, result)
            return
        if isinstance(result, CandidateStopped):
            # TPE ranks a stopped trial above every evaluated one that breaks a bound, unless it breaks one itself.
            trial.set_constraint(f"{result.gate} gate", result.excess)
            self._stop(trial, "stopped", result.gate, result.reason)
            return
        write_end(trial, "failed", result.stage, result.reason)
        self.study.tell(trial, state=TrialState.FAIL)
        if isinstance(result, UnexpectedError):
            listener.happened("unexpected error", trial=trial.number, traceback=result.traceback)
        elif isinstance(result, WorkerLost):
            listener.happened("worker lost", trial=trial.number, stage=result.stage, reason=result.reason)

    def _keep(self, trial: Trial, outcome: Outcome) -> None:
        values = [outcome.measurements[objective.name].value for objective in self.objectives]
        for objective in (*self.objectives, *self.limits):
            baseline = self.baseline[objective.name]
            violation = objective.violation(outcome.measurements[objective.name].value, baseline)
            if violation is not None:
                trial.set_constraint(objective.bound_text(baseline), violation)
        write_outcome(trial, outcome)
        self.study.tell(trial, values)

    def _stop(self, trial: Trial, status: str, stage: str, reason: str) -> None:
        write_end(trial, status, stage, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def _finish(self, trial: Trial, listener: Listener) -> None:
        """Have nothing more to do with a trial that has ended."""
        self._ledger.end(trial.number)
        del self._trials[trial.number]
        self._take_in(listener, trial.number)

    def _take_in(self, listener: Listener, own: int | None = None) -> None:
        for record in self._ledger.take_in():
            self._learn(record)
            if record.number == own:
                listener.ended(record)
            else:
                listener.seen(record)

    def _learn(self, record: TrialRecord) -> None:
        self._asking.note(record)
        self._promotion.learn(record)
        if self.gatekeeper is not None:
            self.gatekeeper.learn(record)

    def _interrupt_all(self, listener: Listener) -> None:
        for trial in list(self._trials.values()):
            # A storage that fails here too leaves the trial running, and the next search finds it stale.
            with suppress(optuna.exceptions.StorageInternalError), self.turns():
                interrupt(self.study, trial)
            with suppress(OSError):  # where the log cannot be written, which may be why the search stops
                listener.happened("trial interrupted", trial=trial.number)
            self._ledger.end(trial.number)
        self._trials.clear()
        self._waiting.clear()
