"""What comes of trials: told to Optuna and to whoever listens, and learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import optuna
from optuna.trial import Trial, TrialState

from ..errors import CandidateStopped, TargetUnavailable
from .asking import Asking
from .crew import Answer
from .faults import TRIES, Faults
from .gatekeeper import Gatekeeper
from .ledger import Ledger
from .listener import Listener
from .objectives import Objective
from .outcome import Ending, Outcome, UnexpectedError, WorkerLost
from .pace import Pace
from .promotion import Promotion
from .record import TrialRecord, write_end, write_outcome
from .stale import interrupt
from .turns import Turns
from .waiting import Waiting


@dataclass
class Settling:
    """Holds the trials in flight of one run, settles them, and takes in what other searches have settled.

    Args:
        study: The Optuna study.
        objectives: What is told of an outcome, in the order of the study's directions.
        limits: What has a bound without being an objective.
        baseline: The baseline's value of each, for relative bounds.
        ledger: Learns first of every trial that has ended.
        asking: Queues what follows from an outcome.
        promotion: Learns of every trial that has ended; likewise the gatekeeper, where there is one.
        gatekeeper: None for no gates.
        turns: Held while trials are told.
        waiting: Who waits for the target.
        pace: Learns how long candidates take.
        listener: Is told of every trial.

    Attributes:
        trials: What is in flight, by number, those that wait for the target or to be tried again included.
        faulted: Those that are to be tried again, since they met an error that is not theirs.
    """

    study: optuna.Study
    objectives: Sequence[Objective]
    limits: Sequence[Objective]
    baseline: Mapping[str, float]
    ledger: Ledger
    asking: Asking
    promotion: Promotion
    gatekeeper: Gatekeeper | None
    turns: Turns
    waiting: Waiting
    pace: Pace
    listener: Listener
    trials: dict[int, Trial] = field(default_factory=dict, init=False)
    faulted: list[int] = field(default_factory=list, init=False)
    _faults: Faults = field(default_factory=Faults, init=False)

    @property
    def in_flight(self) -> int:
        """How many candidates the crew has."""
        return len(self.trials) - len(self.waiting) - len(self.faulted)

    def settle(self, answer: Answer) -> None:
        """Tell what came of a candidate; one whose target does not answer is not told, but waits.

        Nor is one that met an error which is not its own, as far as can be told: it is tried again.

        Raises:
            KaruiError: Where the same error comes again and again.
        """
        if isinstance(answer.result, TargetUnavailable):
            self._postpone(answer.ticket, answer.result)
            return
        if isinstance(answer.result, UnexpectedError) and self._is_tried_again(answer.ticket, answer.result):
            return
        if self.waiting.ended(answer.ticket, answered=isinstance(answer.result, Outcome)):
            self.listener.happened("target answers again", candidates=len(self.waiting))
        trial = self.trials[answer.ticket]
        with self.turns():
            if not self.turns.exclusive:
                self.take_in()
            try:
                self._tell(trial, answer.result)
            except optuna.exceptions.UpdateFinishedTrialError:
                self.listener.happened("trial was taken over by another search", trial=trial.number)
            key = self.ledger.own[answer.ticket]
            self.finish(trial)
        if isinstance(answer.result, Outcome):
            self._faults.came_through(key, answer.result)
        else:
            self._faults.forget(key)

    def next_faulted(self, *, nothing_else: bool = False) -> int | None:
        """Take out a candidate to try again now; None where there is none, or others come first.

        Args:
            nothing_else: Whether nothing else is left to do.
        """
        for ticket in self.faulted:
            if nothing_else or self._faults.may_be_tried(self.ledger.own[ticket]):
                self.faulted.remove(ticket)
                return ticket
        return None

    def stop(self, trial: Trial, status: str, stage: str, reason: str) -> None:
        """Tell that a trial came to no outcome, and why."""
        write_end(trial, status, stage, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def leave(self, trial: Trial) -> None:
        """Leave a candidate that was not begun to the next run: no time is left for it."""
        interrupt(self.study, trial, "no time was left for it")
        self.finish(trial)

    def finish(self, trial: Trial) -> None:
        """Have nothing more to do with a trial that has ended."""
        self.ledger.end(trial.number)
        del self.trials[trial.number]
        self.take_in(trial.number)

    def take_in(self, own: int | None = None) -> None:
        """Learn of what has ended since the last look.

        Args:
            own: The trial of this search that has just been told.
        """
        for record in self.ledger.take_in():
            self.learn(record)
            if record.number == own:
                self.asking.queue_worthwhile(record)
                self.listener.ended(record)
            else:
                self.listener.seen(record)

    def learn(self, record: TrialRecord) -> None:
        """Take up a trial that has ended."""
        self.asking.note(record)
        self.promotion.learn(record)
        self.pace.learn(record)
        if self.gatekeeper is not None:
            self.gatekeeper.learn(record)

    def interrupt(self, tickets: Sequence[int]) -> None:
        """Queue again what is in flight of these."""
        for ticket in list(tickets):
            trial = self.trials.pop(ticket)
            # A storage that fails here too leaves the trial running, and the next search finds it stale.
            with suppress(optuna.exceptions.StorageInternalError), self.turns():
                interrupt(self.study, trial)
            with suppress(OSError):  # where the log cannot be written, which may be why the search stops
                self.listener.happened("trial interrupted", trial=trial.number)
            self.ledger.end(trial.number)
            if ticket in self.faulted:
                self.faulted.remove(ticket)

    def interrupt_all(self) -> None:
        """Queue again all that is in flight."""
        self.interrupt(list(self.trials))
        self.waiting.clear()

    def _is_tried_again(self, ticket: int, error: UnexpectedError) -> bool:
        self.waiting.ended(ticket, answered=False)
        told = {"kind": error.kind, "stage": error.stage, "reason": error.reason, "traceback": error.traceback}
        self.listener.happened("unexpected error", trial=ticket, **told)
        if not self._faults.note(self.ledger.own[ticket], error):
            return False
        self.faulted.append(ticket)
        self.listener.reached(ticket, "waiting to be tried again")
        return True

    def _postpone(self, ticket: int, error: TargetUnavailable) -> None:
        is_news = self.waiting.error is None
        self.waiting.add(ticket, error)
        self.listener.reached(ticket, "waiting for its target")
        told = {"reason": error.what, "got": error.got, "again_in_seconds": round(self.waiting.pause_seconds)}
        self.listener.happened("target unavailable", trial=ticket, is_news=is_news, **told)

    def _tell(self, trial: Trial, result: Ending) -> None:
        twin = self.ledger.known.get(self.ledger.own[trial.number])
        if twin is not None:  # only where searches take no turns
            self.stop(trial, "duplicate", "", f"trial {twin} of another search came to its end first")
            return
        if isinstance(result, Outcome):
            self._keep(trial, result)
            self.asking.queue_followers(trial, result)
            return
        if isinstance(result, CandidateStopped):
            # TPE ranks a stopped trial above every evaluated one that breaks a bound, unless it breaks one itself.
            trial.set_constraint(f"{result.gate} gate", result.excess)
            self.stop(trial, "stopped", result.gate, result.reason)
            return
        again = f" ({TRIES} times, while others came through)" if isinstance(result, UnexpectedError) else ""
        write_end(trial, "failed", result.stage, result.reason + again)
        self.study.tell(trial, state=TrialState.FAIL)
        if isinstance(result, WorkerLost):
            self.listener.happened("worker lost", trial=trial.number, stage=result.stage, reason=result.reason)

    def _keep(self, trial: Trial, outcome: Outcome) -> None:
        values = [outcome.measurements[objective.name].value for objective in self.objectives]
        for objective in (*self.objectives, *self.limits):
            baseline = self.baseline[objective.name]
            violation = objective.violation(outcome.measurements[objective.name].value, baseline)
            if violation is not None:
                trial.set_constraint(objective.bound_text(baseline), violation)
        write_outcome(trial, outcome)
        self.study.tell(trial, values)
