"""A search: Optuna's own loop around one objective, in as many threads as candidates are evaluated at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState

from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace
from .budget import Budget as Budget
from .executor import Executor
from .heartbeat import Heartbeat, recover_stale
from .objectives import Objective
from .proposals import SamplerName, make_sampler
from .record import Listener, OneAtATime
from .runner import Callback, Runner
from .statistics.noise import Differences
from .stopping.early_stopping import PruningPolicy
from .trial_objective import TrialObjective
from .turns import Alone, Turn, Turns
from .weight_sharing import Followers


@dataclass
class SearchLoop:
    """Searches one Optuna study until its budget is spent or its space is exhausted; resumable at every step.

    Args:
        study: The Optuna study; its directions match the objectives.
        space: What may be chosen.
        objectives: Names, directions, bounds, in the order of the study's directions.
        baseline: The baseline's value of each objective and limit, for relative bounds.
        executor: Makes and measures candidates.
        sampler: Name of the sampler, or one itself.
        seed: Seed of a sampler of that name; a resumed search goes on with other random numbers than it began with.
        followers: How many trials that differ in nothing but bits are queued after each newly trained network, since
            they cost next to nothing; ``auto`` for as many as are worth it. The sampler chooses their bits.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        pruning_policy: Makes the gates that candidates have to pass; None for no gates, and then candidates that a gate
            once stopped may be tried again.
        final_factor: So many times the epochs the networks of the front are trained anew at the end; 1 for no times.
        turns: How searches that share the study take turns.
        limits: What has a bound without being an objective.
        idle: Does one short piece of work while worker processes are busy and no target is gone, and says whether there
            was any.
        differences: How well differences of files are known, where better than by the spreads of their values.
        clock: Seconds that only grow.
        sleep: Waits for so many seconds; None to be woken by whatever happens.
        callbacks: What Optuna calls after each trial, one at a time; ``stop()`` of the study that they are handed ends
            the search.
    """

    study: optuna.Study
    space: SearchSpace
    objectives: Sequence[Objective]
    baseline: Mapping[str, float]
    executor: Executor
    sampler: SamplerName | optuna.samplers.BaseSampler = "tpe"
    seed: int = 0
    followers: Followers = 0
    canonical: Callable[[Candidate], Candidate] = Candidate.canonical
    pruning_policy: PruningPolicy | None = None
    final_factor: int = 1
    turns: Turns = field(default_factory=Alone)
    limits: Sequence[Objective] = ()
    idle: Callable[[], bool] | None = None
    differences: Differences | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        self._heartbeat = Heartbeat(self.study, self.turns.exclusive)

    def run(self, budget: Budget, listener: Listener, first: Sequence[Mapping[str, Any]] = ()) -> str:
        """Search, and return in one sentence why it ended; the executor is closed.

        Args:
            budget: When to end.
            listener: Is told of every trial.
            first: Parameters of trials to begin with, where the study is new.

        Raises:
            TargetUnavailable: Where all that is left waits for a target that does not answer; likewise.
            KaruiError: Where it makes no sense to go on; the candidates in flight are queued again first.
            KeyboardInterrupt: When interrupted; likewise.
        """
        listener = OneAtATime(listener)
        turn = Turn(self.turns)
        objective = self._objective(listener, turn)
        try:
            with self._heartbeat:
                with turn:
                    self.recover_stale(listener)
                    objective.begin(self.study, self._heartbeat)
                    trials = self.study.get_trials(deepcopy=False)
                    self.study.sampler = self._made_sampler(len(trials))
                    if all(trial.state == TrialState.WAITING for trial in trials):  # queued by the user, or by us
                        objective.proposals.queue_first(first)
                recover = partial(self.recover_stale, listener)
                return self._runner(objective, budget, recover).run()
        finally:
            self.executor.close()

    def _made_sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        if isinstance(self.sampler, optuna.samplers.BaseSampler):
            return self.sampler
        return make_sampler(self.sampler, self.seed + trials)

    def recover_stale(self, listener: Listener | None = None) -> int:
        """Take up what a killed search left running; return how many trials were found stale."""
        stale = recover_stale(self.study, self._heartbeat, [objective.name for objective in self.objectives])
        if listener is not None:
            for trial in stale:
                listener.happened("stale trial", trial=trial.number, owner=trial.user_attrs.get("owner"))
        return len(stale)

    def _objective(self, listener: Listener, turn: Turn) -> TrialObjective:
        return TrialObjective(
            space=self.space,
            objectives=self.objectives,
            baseline=self.baseline,
            executor=self.executor,
            limits=self.limits,
            canonical=self.canonical,
            pruning_policy=self.pruning_policy,
            followers=self.followers,
            seed=self.seed,
            final_factor=self.final_factor,
            differences=self.differences,
            listener=listener,
            turn=turn,
            holds=True,
            clock=self.clock,
        )

    def _runner(self, objective: TrialObjective, budget: Budget, recover: Callable[[], object]) -> Runner:
        return Runner(self.study, objective, budget, recover, self.idle, self.clock, self.sleep, self.callbacks)
