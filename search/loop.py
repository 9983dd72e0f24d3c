"""The search loop: ask, suggest, make and measure, tell; resumable at every step."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors import CandidateFailure
from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace, problem_of
from .objectives import Objective
from .record import (
    ATTEMPTS,
    Evaluate,
    Outcome,
    TrialRecord,
    attempts_of,
    owner_is_gone,
    owner_mark,
    read_record,
    read_records,
    write_candidate,
    write_end,
    write_outcome,
)
from .sampler import SamplerName, make_sampler

FOLLOWER = "follower"
"""The attribute of a trial that was queued because its network had just been trained."""

_REPEATS_BEFORE_PICKING = 4
_DRAWS = 200
_ENUMERABLE = 100_000


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        trials: Candidates that are evaluated or fail; duplicates and impossible ones do not count.
        seconds: Wall-clock time of this run; None for no limit. No candidate is begun after it.
    """

    trials: int
    seconds: float | None = None


class Listener(Protocol):
    """Is told how the search goes, to show it."""

    def begun(self, number: int, candidate: Candidate) -> None:
        """A candidate is about to be made."""

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended, in whatever state."""


@dataclass
class SearchLoop:
    """Searches one Optuna study until its budget is spent or its space is exhausted.

    Args:
        study: The Optuna study; its directions match the objectives.
        space: What may be chosen.
        objectives: Names, directions, bounds, in the order of the study's directions.
        baseline: The baseline's value of each objective, for relative bounds.
        evaluate: Makes and measures one candidate.
        sampler: Name of the sampler.
        seed: Seed of the sampler; a resumed search goes on with other random numbers than it began with.
        followers: How many trials that differ in nothing but bits are queued after each newly trained network, since
            they cost next to nothing; the sampler chooses their bits.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        clock: Seconds that only grow.
    """

    study: optuna.Study
    space: SearchSpace
    objectives: Sequence[Objective]
    baseline: Mapping[str, float]
    evaluate: Evaluate
    sampler: SamplerName = "tpe"
    seed: int = 0
    followers: int = 0
    canonical: Callable[[Candidate], Candidate] = Candidate.canonical
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, int] = field(default_factory=dict, init=False)

    def run(self, budget: Budget, listener: Listener, first: Sequence[Mapping[str, Any]] = ()) -> str:
        """Search, and return in one sentence why it ended.

        Args:
            budget: When to end.
            listener: Is told of every trial.
            first: Parameters of trials to begin with, where the study is new.

        Raises:
            KeyboardInterrupt: When interrupted; the candidate in flight is queued again first.
        """
        self.recover_stale()
        records = read_records(self.study)
        self._remember(records)
        self.study.sampler = make_sampler(self.sampler, self.seed + len(records))
        if not records:
            for parameters in first:
                self.study.enqueue_trial(dict(parameters), skip_if_exists=True)
        spent = sum(_counts(record) for record in records)
        end = None if budget.seconds is None else self.clock() + budget.seconds
        repeats = 0
        while spent < budget.trials:
            if end is not None and self.clock() >= end:
                return "the time is up"
            if repeats >= _REPEATS_BEFORE_PICKING and not self._queue_unknown():
                return "every candidate of the space has been tried"
            record = self.step(listener)
            spent += _counts(record)
            repeats = 0 if _counts(record) else repeats + 1
        return "all trials are done"

    def step(self, listener: Listener) -> TrialRecord:
        """Run one trial and return its record."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask()
        trial.set_user_attr("owner", owner_mark())
        candidate = self.canonical(self.space.suggest(trial))
        write_candidate(trial, candidate)
        try:
            ended = self._settle(trial, candidate, listener)
        except BaseException:
            # Whatever stops the search (Ctrl-C, a full disk, a bug), the candidate in flight is not lost.
            # A storage that fails here too leaves the trial running, and the next search finds it stale.
            with suppress(optuna.exceptions.StorageInternalError):
                self._interrupt(trial)
            raise
        record = read_record(ended)
        listener.ended(record)
        return record

    def recover_stale(self) -> int:
        """Queue again what a killed search left running; return how many trials were found stale."""
        stale = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if owner_is_gone(trial.user_attrs.get("owner"))
        ]
        for trial in stale:
            self._queue_again(trial, killed=True)
        return len(stale)

    def _queue_followers(self, trial: Trial, outcome: Outcome) -> None:
        if self.space.bits is None or not any(stage.stage == "recovery" for stage in outcome.stages):
            return
        for _ in range(self.followers):
            self.study.enqueue_trial(self.space.follower_parameters(trial.params), user_attrs={FOLLOWER: True})

    def _queue_sibling(self, trial: Trial) -> None:
        """Where the sampler chose bits for a follower that are known already, choose others at random."""
        siblings = [
            parameters for parameters, candidate in self.space.siblings(trial.params) if self._is_new(candidate)
        ]
        if siblings:
            self.study.enqueue_trial(self._chance().choice(siblings))

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _settle(self, trial: Trial, candidate: Candidate, listener: Listener) -> FrozenTrial:
        """End the trial, and return it as it stands in the storage."""
        if (problem := problem_of(candidate)) is not None:
            return self._stop(trial, "impossible", "architecture", problem)
        key = candidate.key
        twin = self._known.get(key)
        if twin is not None:
            ended = self._stop(trial, "duplicate", "", f"means the same as trial {twin}")
            if ended.user_attrs.get(FOLLOWER):
                self._queue_sibling(trial)
            return ended
        listener.begun(trial.number, candidate)
        try:
            outcome = self.evaluate(candidate)
        except CandidateFailure as failure:
            write_end(trial, "failed", failure.stage, failure.reason)
            ended = self.study.tell(trial, state=TrialState.FAIL)
        else:
            ended = self._keep(trial, outcome)
            self._queue_followers(trial, outcome)
        self._known[key] = trial.number
        return ended

    def _stop(self, trial: Trial, status: str, stage: str, reason: str) -> FrozenTrial:
        write_end(trial, status, stage, reason)
        return self.study.tell(trial, state=TrialState.PRUNED)

    def _keep(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        write_outcome(trial, outcome)
        values = [outcome.measurements[objective.name].value for objective in self.objectives]
        for objective, value in zip(self.objectives, values, strict=True):
            baseline = self.baseline[objective.name]
            violation = objective.violation(value, baseline)
            if violation is not None:
                trial.set_constraint(objective.bound_text(baseline), violation)
        return self.study.tell(trial, values)

    def _interrupt(self, trial: Trial) -> None:
        frozen = self._frozen(trial.number)
        if frozen.state == TrialState.RUNNING:
            write_end(trial, "interrupted", "", "the search was stopped")
            self._queue_again(frozen, killed=False)

    def _queue_again(self, trial: FrozenTrial, *, killed: bool) -> None:
        """End a running trial and queue its parameters, unless the search has died on it too often."""
        attempts = attempts_of(trial)
        self.study.tell(trial.number, state=TrialState.FAIL)
        if not (killed and attempts >= ATTEMPTS):
            attributes = {"attempts": attempts + 1 if killed else attempts}
            self.study.enqueue_trial(trial.params, user_attrs=attributes)

    def _queue_unknown(self) -> bool:
        """Queue a random candidate that was not tried yet; False where the space is known to hold none."""
        chance = self._chance()
        drawn = (self.space.random_point(chance) for _ in range(_DRAWS))
        listed = islice(self.space.points(), _ENUMERABLE)
        for parameters, candidate in chain(drawn, listed):
            if self._is_new(candidate) and problem_of(candidate) is None:
                self.study.enqueue_trial(parameters)
                return True
        return False

    def _is_new(self, candidate: Candidate) -> bool:
        return self.canonical(candidate).key not in self._known

    def _chance(self) -> random.Random:
        return random.Random(f"{self.seed} {len(self._known)}")

    def _remember(self, records: Sequence[TrialRecord]) -> None:
        self._known = {record.key: record.number for record in records if _counts(record)}


def _counts(record: TrialRecord) -> bool:
    """Say whether a trial counts towards the budget: its candidate was evaluated, or failed of itself."""
    return record.state in ("evaluated", "failed")
