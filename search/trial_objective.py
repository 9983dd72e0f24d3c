"""One trial, from what the sampler suggests to its values and constraints: an ordinary Optuna objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

import optuna
from optuna.trial import Trial

from ..errors import CandidateStopped, KaruiError, TargetUnavailable
from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace, problem_of
from .executor import Executor
from .faults.failure_guard import TRIES, stopped_by
from .heartbeat import Heartbeat, queue_copy
from .objectives import Objective
from .outcome import Ending, Outcome, Result, UnexpectedError, WorkerLost
from .promotion import Promotion
from .proposals import Proposals
from .record import Listener, Quiet, TrialRecord, write_begin, write_candidate, write_end, write_outcome
from .statistics.noise import Differences
from .stopping.early_stopping import PruningPolicy
from .stopping.pruning_rules import PruningRules
from .trial_index import Pace, TrialIndex
from .turns import Turn, Unordered
from .weight_sharing import Followers, WeightSharing

_REPEATS_BEFORE_PICKING = 4

_CLAIMED_WITHIN_SECONDS = 10.0
"""Who claims a candidate and says nothing for so long was killed in between."""

_LOOKS_AGAIN_SECONDS = 0.05

NO_TIME_LEFT = "no time was left for it"


class Held(BaseException):
    """Ends Optuna's loop, and nothing is told: the trial waits, still running, and goes on later.

    Optuna tells an end of every trial whose objective comes back or raises an Exception; it lets other exceptions pass.

    Args:
        trial: Which one.
        cause: What it waits for; None where another search has taken the trial over, and there is nothing to tell.
    """

    def __init__(self, trial: Trial, cause: TargetUnavailable | UnexpectedError | None) -> None:
        super().__init__(trial.number)
        self.trial = trial
        self.cause = cause


def _nothing(number: int, key: str, result: Result) -> None:
    """Take no notice of how an evaluation ended."""


@dataclass
class TrialObjective:
    """Suggests a candidate, looks whether it was seen before, has it made and measured, and returns its values.

    An ordinary Optuna objective: ``study.optimize(objective)`` with whatever sampler, storage and callbacks. Where a
    candidate has ended already or is in flight elsewhere, is impossible, or is stopped early, TrialPruned is raised;
    one that fails of itself returns NaN, which Optuna keeps as a failed trial, and the study goes on.

    Args:
        space: What may be chosen.
        objectives: Names, directions and bounds, in the order of the study's directions.
        baseline: The baseline's value of each objective and limit, for relative bounds.
        executor: Makes and measures candidates.
        limits: What has a bound without being an objective.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        pruning_policy: Makes the gates that candidates have to pass; None for none.
        followers: How many trials that differ in nothing but bits are queued after each newly trained network.
        seed: Seed of what is drawn here.
        final_factor: So many times the epochs promoted candidates are trained for.
        differences: How well differences of files are known, where better than by the spreads of their values.
        listener: Is told of every trial.
        turn: Held whenever no candidate is evaluated, where searches take turns.
        holds: Whether :class:`Held` is raised for what its caller goes on with later; otherwise the candidate is queued
            again, and what it met is raised.
        on_result: Is told the trial's number, the candidate's key and how its evaluation ended, before that is kept.
        seconds_left: How long a candidate that is begun now may take.
        clock: Seconds that only grow.

    Attributes:
        is_late: Whether a candidate was left to the next run for want of time.
        is_exhausted: Whether every candidate of the space was tried.
    """

    space: SearchSpace
    objectives: Sequence[Objective]
    baseline: Mapping[str, float]
    executor: Executor
    limits: Sequence[Objective] = ()
    canonical: Callable[[Candidate], Candidate] = Candidate.canonical
    pruning_policy: PruningPolicy | None = None
    followers: Followers = 0
    seed: int = 0
    final_factor: int = 1
    differences: Differences | None = None
    listener: Listener = field(default_factory=Quiet)
    turn: Turn = field(default_factory=lambda: Turn(Unordered()))
    holds: bool = False
    on_result: Callable[[int, str, Result], None] = _nothing
    seconds_left: Callable[[], float] = lambda: float("inf")
    clock: Callable[[], float] = time.monotonic
    is_late: bool = field(default=False, init=False)
    is_exhausted: bool = field(default=False, init=False)
    _study: optuna.Study | None = field(default=None, init=False)
    _repeats: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._own: set[int] = set()
        self._gates: dict[int, PruningRules] = {}
        self.executor.on_stage = self.listener.reached

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        """Return the values of a trial; NaN where its candidate failed, or is left to the next run.

        Raises:
            TrialPruned: Where there is no use in the candidate, or it was stopped early.
            Held: Where it goes on later, and its caller sees to that.
            KaruiError: Where it makes no sense to go on; the candidate is queued again.
        """
        self.turn.take()
        try:
            self.begin(trial.study)
            self.take_in()
            candidate = self.claim(trial)
            return self._no_values if candidate is None else self.go_on(trial, candidate)
        finally:
            if not self.holds:  # else its caller has the turn until the next candidate is claimed
                self.turn.release()

    def begin(self, study: optuna.Study, heartbeat: Heartbeat | None = None) -> None:
        """Take up a study with all that is known of it, unless that was done.

        Args:
            study: Optuna's, with directions of the objectives.
            heartbeat: This search among those that share the study.

        Raises:
            KaruiError: Where its directions are others.
        """
        if self._study is not None and self._study.study_name == study.study_name:
            return
        check_directions(study, self.objectives)
        self._study = study
        self.heartbeat = heartbeat or Heartbeat(study, self.turn.exclusive).stay()
        self.trial_index = TrialIndex(study, self.heartbeat, stopped_are_known=self.pruning_policy is not None)
        self.promotion = Promotion(study, self.objectives, self.trial_index, self.final_factor, self.differences)
        self.pace = Pace(self.clock)
        weight_sharing = WeightSharing(self.baseline)
        self.proposals = Proposals(
            study, self.space, self.trial_index, self.canonical, self.seed, self.followers, weight_sharing
        )
        for record in self.trial_index.take_in():
            self._learn(record)

    def claim(self, trial: Trial, promoted: Candidate | None = None) -> Candidate | None:
        """Make a running trial's candidate this search's own, and return it; None where no time is left for it.

        Args:
            trial: The trial.
            promoted: Its candidate, where that is chosen already.

        Raises:
            TrialPruned: Where it is impossible, or somebody has it.
        """
        try:
            return self._claim(trial, promoted)
        except (optuna.TrialPruned, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except BaseException as error:
            self.interrupt(trial, told=isinstance(error, (Exception, KeyboardInterrupt)))
            raise

    def _claim(self, trial: Trial, promoted: Candidate | None) -> Candidate | None:
        self._own.add(trial.number)
        trial.set_user_attr("owner", self.heartbeat.mark)
        candidate = promoted or self.canonical(self.space.suggest(trial))
        write_candidate(trial, candidate)
        if not self.turn.exclusive:
            self._wait_for_claims(trial.number, candidate.key)
        if (problem := problem_of(candidate)) is not None:
            self._repeat(trial, "impossible", "architecture", problem)
        if (twin := self.trial_index.holder(candidate.key, trial.number)) is not None:
            self._repeat(trial, "duplicate", "", f"means the same as trial {twin}")
        if promoted is None and self.pace.expected(candidate) > self.seconds_left():
            self.is_late = True
            self._leave(trial, NO_TIME_LEFT)
            return None
        self._repeats = 0
        write_begin(trial)
        self.pace.begin(trial.number)
        self.trial_index.begin(trial.number, candidate)
        self._note_gates(trial.number, candidate)
        self.listener.begun(trial.number, candidate)
        self.turn.release()
        return candidate

    def go_on(self, trial: Trial, candidate: Candidate) -> tuple[float, ...]:
        """Make and measure the candidate of a trial that was claimed; returns and raises what a call does."""
        try:
            result = self.executor.run(trial.number, candidate, self._gates.pop(trial.number, None))
            if isinstance(result, (TargetUnavailable, UnexpectedError)):
                self._hold(trial, result)
            self.on_result(trial.number, candidate.key, result)
            self.turn.take()
            return self.settle(trial, candidate.key, result)
        except (Held, optuna.TrialPruned):
            raise
        except optuna.exceptions.UpdateFinishedTrialError:
            self.listener.happened("trial was taken over by another search", trial=trial.number)
            if self.holds:
                raise Held(trial, None) from None
            raise
        except BaseException as error:
            self.interrupt(trial, told=isinstance(error, (Exception, KeyboardInterrupt)))
            raise

    def try_again(self, trial: Trial) -> tuple[float, ...]:
        """Make and measure a held candidate again, with the gates as they stand now."""
        candidate = candidate_of(trial)
        with self.turn:
            self._note_gates(trial.number, candidate)
        return self.go_on(trial, candidate)

    def settle(self, trial: Trial, key: str, result: Ending) -> tuple[float, ...]:
        """Keep what came of a candidate with its trial; return its values, NaN where it failed.

        Raises:
            TrialPruned: Where it was stopped early.
        """
        if not self.turn.exclusive:
            self.take_in()
            if (twin := self.trial_index.known.get(key)) is not None:
                _prune(trial, "duplicate", "", f"trial {twin} of another search came to its end first")
        if isinstance(result, Outcome):
            values = self._keep(trial, result)
            self.proposals.queue_followers(trial, result)
            return values
        if isinstance(result, CandidateStopped):
            # TPE ranks a stopped trial above every evaluated one that breaks a bound, unless it breaks one itself.
            trial.set_constraint(f"{result.gate} gate", result.excess)
            _prune(trial, "stopped", result.gate, result.reason)
        again = f" ({TRIES} times, while others came through)" if isinstance(result, UnexpectedError) else ""
        write_end(trial, "failed", result.stage, result.reason + again)
        if isinstance(result, WorkerLost):
            self.listener.happened("worker lost", trial=trial.number, stage=result.stage, reason=result.reason)
        return self._no_values

    def take_in(self) -> None:
        """Learn of what has ended since the last look, in this search and in others."""
        for record in self.trial_index.take_in():
            self._learn(record)
            if record.number in self._own:
                self._own.remove(record.number)
                self.trial_index.end(record.number)
                self.proposals.queue_worthwhile(record)
                self.listener.ended(record)
            else:
                self.listener.seen(record)

    def interrupt(self, trial: Trial, *, told: bool) -> None:
        """Queue again a candidate that is in flight when its search is stopped.

        Args:
            trial: Its trial.
            told: Whether the caller tells Optuna that this trial has ended.
        """
        # A storage that fails here too leaves the trial running, and the next search finds it stale.
        with suppress(optuna.exceptions.StorageInternalError), self.turn:
            self._leave(trial, "the search was stopped")
            if not told:
                trial.study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        with suppress(OSError):  # where the log cannot be written, which may be why the search stops
            self.listener.happened("trial interrupted", trial=trial.number)
        self._own.discard(trial.number)
        self.trial_index.end(trial.number)

    def _wait_for_claims(self, number: int, key: str) -> None:
        """Look who else claims a candidate: written before one looks, of two claims one is seen at least.

        Who sees an earlier claim yields to it, and who sees a later one waits until that has yielded or begun.
        """
        over = time.monotonic() + _CLAIMED_WITHIN_SECONDS
        self.take_in()
        while self.trial_index.is_claimed_later(key, number) and time.monotonic() < over:
            time.sleep(_LOOKS_AGAIN_SECONDS)
            self.take_in()

    @property
    def _no_values(self) -> tuple[float, ...]:
        return (math.nan,) * len(self.objectives)

    def _learn(self, record: TrialRecord) -> None:
        self.proposals.note(record)
        self.promotion.learn(record)
        self.pace.learn(record)
        if self.pruning_policy is not None:
            self.pruning_policy.learn(record)

    def _note_gates(self, number: int, candidate: Candidate) -> None:
        if self.pruning_policy is not None and candidate.epochs_factor == 1:  # what is promoted has reached the front
            self._gates[number] = self.pruning_policy.gates_for(candidate.key)

    def _hold(self, trial: Trial, cause: TargetUnavailable | UnexpectedError) -> NoReturn:
        if self.holds:
            raise Held(trial, cause)
        raise cause if isinstance(cause, TargetUnavailable) else stopped_by(cause, 1)

    def _repeat(self, trial: Trial, status: str, stage: str, reason: str) -> NoReturn:
        """End a trial that there is no use in, and see that the next one is another."""
        self._repeats += 1
        try:
            _prune(trial, status, stage, reason)
        finally:
            if status == "duplicate":
                self.proposals.queue_sibling(trial)
            if self._repeats >= _REPEATS_BEFORE_PICKING and not self.proposals.queue_unknown():
                self.is_exhausted = True
                with suppress(RuntimeError):  # where the trial was asked for without Optuna's loop
                    trial.study.stop()

    def _leave(self, trial: Trial, reason: str) -> None:
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        if frozen.state == optuna.trial.TrialState.RUNNING:
            write_end(trial, "interrupted", "", reason)
            queue_copy(trial.study, frozen, killed=False)

    def _keep(self, trial: Trial, outcome: Outcome) -> tuple[float, ...]:
        for objective in (*self.objectives, *self.limits):
            baseline = self.baseline[objective.name]
            violation = objective.violation(outcome.measurements[objective.name].value, baseline)
            if violation is not None:
                trial.set_constraint(objective.bound_text(baseline), violation)
        write_outcome(trial, outcome)
        return tuple(outcome.measurements[objective.name].value for objective in self.objectives)


def candidate_of(trial: Trial) -> Candidate:
    """Return the candidate of a trial that was claimed."""
    return Candidate.from_dict(trial.user_attrs["candidate"])


def _prune(trial: Trial, status: str, stage: str, reason: str) -> NoReturn:
    write_end(trial, status, stage, reason)
    raise optuna.TrialPruned(reason)


def check_directions(study: optuna.Study, objectives: Sequence[Objective]) -> None:
    """Refuse a study whose directions are not those of the objectives.

    Raises:
        KaruiError: Where they are others.
    """
    found = [direction.name.lower() for direction in study.directions]
    wanted = [objective.direction for objective in objectives]
    if found != wanted:
        raise KaruiError(
            "the Optuna study has other directions than the objectives",
            where=f"study {study.study_name!r}",
            expected=", ".join(f"{one.name}: {one.direction}" for one in objectives),
            got=", ".join(found),
            remedy="make it with optuna.create_study(directions=objective.directions)",
        )
