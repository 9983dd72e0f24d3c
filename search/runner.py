"""The threads of one search, each of which runs Optuna's own loop; and what a search goes on with later."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError, Condition, RLock, Thread

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from .budget import STOPPED_PER_TRIAL, TIME_IS_UP, Budget
from .executor import Closed
from .faults.failure_guard import FailureGuard
from .faults.retry_queue import PATIENCE_SECONDS, RetryQueue
from .outcome import Outcome, Result, UnexpectedError
from .trial_objective import Held, TrialObjective, candidate_of

_RECOVERS_EVERY_SECONDS = 60.0
_LOOKS_EVERY_SECONDS = 1.0

Callback = Callable[[optuna.Study, FrozenTrial], None]
"""What Optuna calls after each trial; ``stop()`` of the study that it is handed ends the search."""

STOPPED_BY_CALLBACK = "a callback or the sampler ended it"


@dataclass
class Runner:
    """Runs Optuna's loop around an objective, and goes on later with what has to wait.

    Args:
        study: The study, which the objective has taken up.
        objective: Holds what has to wait (``holds``).
        budget: When to end.
        recover: Takes up what killed searches have left running; called within the turn.
        idle: Does one short piece of work, and says whether there was any; None for none.
        clock: Seconds that only grow.
        sleep: Waits for so many seconds; None to be woken by whatever happens.
        callbacks: Are called after each trial, one at a time.
    """

    study: optuna.Study
    objective: TrialObjective
    budget: Budget
    recover: Callable[[], object]
    idle: Callable[[], bool] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] | None = None
    callbacks: Sequence[Callback] = ()
    _held: dict[int, Trial] = field(default_factory=dict, init=False)
    _faulted: list[int] = field(default_factory=list, init=False)
    _left: float = field(default=math.inf, init=False)
    _ending: str = field(default="", init=False)
    _error: BaseException | None = field(default=None, init=False)
    _is_given_up: bool = field(default=False, init=False)
    _is_promoting: bool = field(default=False, init=False)
    _is_stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._over = None if self.budget.seconds is None else self.clock() + self.budget.seconds
        self._retry_queue = RetryQueue(self.clock)
        self._failure_guard = FailureGuard()
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._recovered_at = time.monotonic()
        self._size = self.objective.executor.size
        self._barrier = Barrier(self._size, self._begin_promotion)
        self.objective.on_result = self._note
        self.objective.seconds_left = lambda: self._left

    def run(self) -> str:
        """Search, then promote; return in one sentence why it ended.

        Raises:
            TargetUnavailable: Where all that is left waits for a target that does not answer.
            KaruiError: Where it makes no sense to go on; what is in flight is queued again.
            KeyboardInterrupt: When interrupted; likewise.
        """
        if self.objective.executor.is_here:
            self._take_part(self.study)
        else:
            self._supervise()
        if self._error is not None:
            self._interrupt(list(self._held))
            raise self._error
        return self.objective.promotion.describe(self._ending)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Have threads take part, and see to it that they end in time."""
        # A copy of the study for each: Optuna's loops stop by a mark in theirs.
        threads = [Thread(target=self._take_part, args=(copy.copy(self.study),)) for _ in range(self._size)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and self._error is None:
                self._look()
        except BaseException as error:  # Ctrl-C comes to this thread
            self._fail(error)
        for thread in threads:
            thread.join()

    def _look(self) -> None:
        """Wait until something has happened; where nothing has for a moment, do what can be done meanwhile."""
        with self._changed:
            happened = self._changed.wait(min(_LOOKS_EVERY_SECONDS, max(0.0, self._until_end())) or 0.01)
        if self._until_end() <= 0 and self._in_flight() and not self._is_given_up:
            self._is_given_up = True
            self.objective.listener.happened("candidates left for want of time", trials=sorted(self._in_flight()))
            self.objective.executor.close()
        elif time.monotonic() - self._recovered_at >= _RECOVERS_EVERY_SECONDS:
            self._recover()
        elif not happened and self.idle is not None and self._in_flight() and not len(self._retry_queue):
            self.idle()

    def _in_flight(self) -> list[int]:
        """Return the numbers of the trials whose candidates are evaluated now."""
        with self._lock:
            return [number for number in list(self.objective.trial_index.own) if number not in self._held]

    def _recover(self) -> None:
        self._recovered_at = time.monotonic()
        with self.objective.turn:
            self.recover()

    def _take_part(self, study: optuna.Study) -> None:
        """Search and promote in this thread; what it raises is kept, and ends the others."""
        try:
            ending = self._work(lambda: self._search(study))
            with self._lock:
                self._ending = self._ending or ending
            self.objective.turn.release()
            self._barrier.wait()  # whoever is promoted is chosen once all have ended
            if self._is_promoting:
                self._work(lambda: self._promote(study))
        except BrokenBarrierError:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self.objective.turn.release()
            self._tell_others()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        self._barrier.abort()
        if not self.objective.executor.is_here:
            self.objective.executor.close()

    def _begin_promotion(self) -> None:
        promotion = self.objective.promotion
        missing = len(promotion.missing(self._until_end()))
        self._is_promoting = bool(missing)
        self._is_stopped = False  # what ended the search lets promotion begin, as its budget does
        if missing:
            told = {"candidates": missing, "epochs_factor": promotion.factor}
            self.objective.listener.happened("promotion begun", **told)

    def _tell_others(self) -> None:
        """Wake the threads that have nothing to do, and the one that sees to them."""
        with self._changed:
            self._changed.notify_all()

    def _work(self, begin: Callable[[], str | None]) -> str:
        """Have candidates evaluated until no more are begun, and return why that is."""
        idle_since: float | None = None
        while True:
            if self._error is not None:
                raise Closed
            try:
                self._try_again()
                if (ending := begin()) is None:
                    continue
                self.objective.turn.release()
                if self._in_flight():  # what others have in flight may have to be tried again
                    with self._changed:
                        self._changed.wait(_LOOKS_EVERY_SECONDS)
                elif self._faulted:
                    self._try_last()
                elif len(self._retry_queue):
                    idle_since = self.clock() if idle_since is None else idle_since
                    self._wait_for_target(idle_since)
                else:
                    self._recover()  # who ends last leaves nothing of those that were killed meanwhile
                    return ending
            except Closed:
                if not self._is_given_up:
                    raise
                return TIME_IS_UP

    # --- what is begun ------------------------------------------------------------------------------------------------

    def _search(self, study: optuna.Study) -> str | None:
        """Let Optuna's loop run; return why not, where no more candidates are to be begun."""
        if (ending := self._why_not()) is not None:
            return ending
        is_pause = False

        def look(study: optuna.Study, trial: FrozenTrial) -> None:  # noqa: ARG001
            nonlocal is_pause
            if is_pause := self._is_to_pause():
                study.stop()

        try:
            study.optimize(self.objective, callbacks=[self._call_back, look])
        except Held as held:
            self._hold(held)
        else:
            if not is_pause and not self.objective.is_exhausted:  # by a sampler that has no more to ask for
                self._stop()
        return None

    def _stop(self) -> None:
        self._is_stopped = True

    def _stoppable(self, study: optuna.Study) -> optuna.Study:
        """Return a copy whose ``stop()`` ends the search, not only the loop that runs just now, if any does."""
        study = copy.copy(study)
        study.stop = self._stop  # type: ignore[method-assign]
        return study

    def _call_back(self, study: optuna.Study, trial: FrozenTrial) -> None:
        for callback in self.callbacks:
            callback(self._stoppable(study), copy.deepcopy(trial))

    def _is_to_pause(self) -> bool:
        """Learn what came of a trial, and say whether Optuna's loop is to end here for something else."""
        self.objective.take_in()
        if time.monotonic() - self._recovered_at >= _RECOVERS_EVERY_SECONDS:
            self._recover()
        is_to_pause = self._is_due() or self._why_not() is not None or self._error is not None
        self._tell_others()
        return is_to_pause

    def _why_not(self) -> str | None:
        """Return why no more candidates are begun; where they are, the turn is held, and all that has ended is known.

        Whoever asks next then knows of every candidate in flight.
        """
        objective, trials = self.objective, self.budget.trials
        trial_index = objective.trial_index
        if self._is_stopped:
            return STOPPED_BY_CALLBACK
        if trial_index.promised >= trials:
            return "all trials are done"
        if objective.pruning_policy is not None and trial_index.stopped >= STOPPED_PER_TRIAL * trials:
            stopped = f"the gates stopped {trial_index.stopped} candidates"
            return f"{stopped}, {STOPPED_PER_TRIAL} for each trial asked for"
        objective.turn.take()
        objective.take_in()
        self._left = self._until_end() - objective.promotion.reserve(self._size, self.budget.seconds)
        if objective.is_late or self._left <= 0 or self._left < objective.pace.least():
            return TIME_IS_UP
        if trial_index.promised >= trials:
            return "all trials are done"
        return "every candidate of the space has been tried" if objective.is_exhausted else None

    def _promote(self, study: optuna.Study) -> str | None:
        """Begin the next candidate of the front; return why not, where there is none.

        Not by way of Optuna's queue: what waits there is the search's, and would come first.
        """
        if self._until_end() <= 0:
            return TIME_IS_UP
        if self._is_stopped:
            return STOPPED_BY_CALLBACK
        objective = self.objective
        objective.turn.take()
        objective.take_in()
        promoted = objective.promotion.begin(objective.heartbeat.mark, self._until_end())
        if promoted is None:
            return "all of the front are promoted"
        trial, candidate = promoted

        def claimed() -> tuple[float, ...]:
            return objective.go_on(trial, objective.claim(trial, candidate) or candidate)

        self._run(study, trial, claimed)
        return None

    def _run(self, study: optuna.Study, trial: Trial, end: Callable[[], tuple[float, ...]]) -> None:
        """Run a trial as Optuna's loop does, one that it did not ask for itself."""
        study = self._stoppable(study)  # samplers stop it when they are told
        try:
            values = end()
        except Held as held:
            self._hold(held)
            return
        except optuna.TrialPruned:
            frozen = study.tell(trial, state=TrialState.PRUNED)
        except (Exception, KeyboardInterrupt):
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            raise
        else:
            has_failed = any(map(math.isnan, values))
            frozen = study.tell(trial, None if has_failed else values, state=TrialState.FAIL if has_failed else None)
        self._call_back(study, frozen)
        self.objective.take_in()
        self._tell_others()

    def _until_end(self) -> float:
        return math.inf if self._over is None else self._over - self.budget.most_finishing - self.clock()

    # --- what has to wait ---------------------------------------------------------------------------------------------

    def _hold(self, held: Held) -> None:
        """Keep a trial that goes on later."""
        self._keep(held)
        self._tell_others()

    def _keep(self, held: Held) -> None:
        objective, number = self.objective, held.trial.number
        if held.cause is None:  # another search has taken it over
            objective.turn.take()
            objective.take_in()
            return
        if isinstance(held.cause, UnexpectedError):
            self._meet(held.trial, held.cause)
            return
        with self._lock:
            self._held[number] = held.trial
            is_news = self._retry_queue.error is None
            self._retry_queue.add(number, held.cause)
            again = round(self._retry_queue.pause_seconds)
        objective.listener.reached(number, "waiting for its target")
        told = {"reason": held.cause.what, "got": held.cause.got, "again_in_seconds": again}
        objective.listener.happened("target unavailable", trial=number, is_news=is_news, **told)

    def _meet(self, trial: Trial, error: UnexpectedError) -> None:
        """Keep a trial that met an error which is not its candidate's, unless it is in the end."""
        objective, number = self.objective, trial.number
        told = {"kind": error.kind, "stage": error.stage, "reason": error.reason, "traceback": error.traceback}
        objective.listener.happened("unexpected error", trial=number, **told)
        key = objective.trial_index.own[number]
        with self._lock:
            self._held[number] = trial
            self._retry_queue.ended(number, answered=False)
            if is_tried_again := self._failure_guard.note(key, error):
                self._faulted.append(number)
            else:
                del self._held[number]
        if is_tried_again:
            objective.listener.reached(number, "waiting to be tried again")
        else:
            objective.turn.take()
            self._run(trial.study, trial, lambda: objective.settle(trial, key, error))

    def _may_be_tried(self, number: int) -> bool:
        return self._failure_guard.may_be_tried(self.objective.trial_index.own[number])

    def _is_due(self) -> bool:
        """Say whether somebody who waits is to be tried again now."""
        with self._lock:
            return self._retry_queue.is_due or any(map(self._may_be_tried, self._faulted))

    def _try_again(self) -> None:
        """Go on with who waits for its target, or met an error that is not its own, where it makes sense."""
        while True:
            with self._lock:
                number = self._retry_queue.next()
                is_faulted = number is None
                if number is None and (number := next(filter(self._may_be_tried, self._faulted), None)) is not None:
                    self._faulted.remove(number)
                trial = None if number is None else self._held.pop(number)
            if trial is None:
                return
            self._go_on(trial, is_faulted=is_faulted)

    def _try_last(self) -> None:
        """Go on with one that met an error which is not its own, nothing else being left; no more in time."""
        with self._lock:
            numbers, self._faulted[:] = self._faulted[:], self._faulted[1:]
            trial = self._held.pop(numbers[0]) if numbers and self._until_end() > 0 else None
        if trial is not None:
            self._go_on(trial, is_faulted=True)
        else:
            self._interrupt(numbers)

    def _go_on(self, trial: Trial, *, is_faulted: bool) -> None:
        """Go on with a trial; one that waited for its target has passed its gates, any other meets them again."""
        self.objective.turn.release()
        objective = self.objective
        if is_faulted:
            self._run(trial.study, trial, lambda: objective.try_again(trial))
        else:
            self._run(trial.study, trial, lambda: objective.go_on(trial, candidate_of(trial)))

    def _note(self, number: int, key: str, result: Result) -> None:
        """Take in how an evaluation ended: whether its target is back, and whether errors are a candidate's own."""
        with self._lock:
            is_back = self._retry_queue.ended(number, answered=isinstance(result, Outcome))
            waiting = len(self._retry_queue)
            if isinstance(result, Outcome):
                self._failure_guard.came_through(key, result)
            else:
                self._failure_guard.forget(key)
        if is_back:
            self.objective.listener.happened("target answers again", candidates=waiting)

    def _wait_for_target(self, idle_since: float) -> None:
        """Pass the time until the target is tried again, where nothing else is left to do."""
        left = min(PATIENCE_SECONDS, self._until_end())
        if self._retry_queue.is_hopeless(idle_since) or left <= 0:
            raise self._retry_queue.ending()
        seconds = min(left, self._retry_queue.pause_seconds)
        if self.sleep is not None:
            self.sleep(seconds)
            return
        with self._changed:
            self._changed.wait(seconds)

    def _interrupt(self, numbers: list[int]) -> None:
        """Queue again those of these that wait."""
        for number in numbers:
            trial = self._held.pop(number, None)
            if trial is not None:
                with suppress(optuna.exceptions.StorageInternalError):
                    self.objective.interrupt(trial, told=False)
            if number in self._faulted:
                self._faulted.remove(number)
