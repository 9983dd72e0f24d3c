"""The search loop: ask, suggest, have candidates made and measured, tell; resumable at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace
from .asking import Asking
from .beginning import STOPPED_PER_TRIAL as STOPPED_PER_TRIAL
from .beginning import Beginning
from .beginning import Budget as Budget
from .crew import Crew, Event, Reached
from .following import Followers, Following
from .gatekeeper import Gatekeeper
from .ledger import Ledger
from .listener import Listener
from .noise import Differences
from .objectives import Objective
from .owners import Owners
from .pace import Pace
from .promotion import Promotion
from .sampler import SamplerName, make_sampler
from .settling import Settling
from .stale import recover_stale
from .turns import Alone, Turns
from .waiting import PATIENCE_SECONDS, Waiting

_LOOKS_EVERY_SECONDS = 30.0
_IDLE_AFTER_SECONDS = 1.0
_RECOVERS_EVERY_SECONDS = 60.0


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
            they cost next to nothing; ``auto`` for as many as are worth it. The sampler chooses their bits.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        gatekeeper: Makes the gates that candidates have to pass; None for no gates, and then candidates that a gate
            once stopped may be tried again.
        final_factor: So many times the epochs the networks of the front are trained anew at the end; 1 for no times.
        turns: How searches that share the study take turns.
        limits: What has a bound without being an objective.
        differences: How well differences of files are known, where better than by the spreads of their values.
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
    followers: Followers = 0
    canonical: Callable[[Candidate], Candidate] = Candidate.canonical
    gatekeeper: Gatekeeper | None = None
    final_factor: int = 1
    turns: Turns = field(default_factory=Alone)
    limits: Sequence[Objective] = ()
    differences: Differences | None = None
    idle: Callable[[], bool] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _recovered_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._owners = Owners(self.study, self.turns.exclusive)
        self._ledger = Ledger(self.study, self._owners, stopped_are_known=self.gatekeeper is not None)
        self._promotion = Promotion(self.study, self.objectives, self._ledger, self.final_factor, self.differences)
        self._waiting = Waiting(self.clock)
        self._pace = Pace(self.clock)

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
        self._make_parts(listener)
        with self._owners:
            try:
                self._begin(listener, first)
                return self._search(budget, listener)
            except BaseException:
                # Whatever stops the search (Ctrl-C, a full disk, a bug), the candidates in flight are not lost.
                self.crew.close()
                self._settling.interrupt_all()
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

    def _make_parts(self, listener: Listener) -> None:
        """Make what settles trials, and what begins them."""
        following = Following(self.baseline)
        asking = Asking(self.study, self.space, self._ledger, self.canonical, self.seed, self.followers, following)
        self._settling = Settling(
            study=self.study,
            objectives=self.objectives,
            limits=self.limits,
            baseline=self.baseline,
            ledger=self._ledger,
            asking=asking,
            promotion=self._promotion,
            gatekeeper=self.gatekeeper,
            turns=self.turns,
            waiting=self._waiting,
            pace=self._pace,
            listener=listener,
        )
        owner = self._owners.mark
        self._beginning = Beginning(self._settling, self.space, self.canonical, self.crew, owner, self.clock)

    def _begin(self, listener: Listener, first: Sequence[Mapping[str, Any]]) -> None:
        with self.turns():
            self.recover_stale(listener)
            for record in self._ledger.take_in():
                self._settling.learn(record)
            trials = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = make_sampler(self.sampler, self.seed + trials)
            if not trials:
                self._settling.asking.queue_first(first)

    def _search(self, budget: Budget, listener: Listener) -> str:
        over = None if budget.seconds is None else self.clock() + budget.seconds

        def end() -> float | None:
            return None if over is None else over - budget.most_finishing

        ending = self._work(lambda: self._beginning.fill(budget, end()), end, listener)
        if missing := len(self._promotion.missing(self._beginning.left(end()))):
            listener.happened("promotion begun", candidates=missing, epochs_factor=self.final_factor)
            self._work(lambda: self._beginning.fill_with_promoted(end()), end, listener)
        return self._promotion.describe(ending)

    def _work(self, fill: Callable[[], str | None], until: Callable[[], float | None], listener: Listener) -> str:
        """Have candidates evaluated until no more are begun, and return why that is."""
        idle_since: float | None = None
        while True:
            end = until()
            self._beginning.try_again()
            ending = fill()
            if not self._settling.in_flight and self._settling.faulted:
                self._beginning.try_last(end)
            if not self._settling.in_flight and len(self._waiting):
                idle_since = self.clock() if idle_since is None else idle_since
                self._wait_for_target(end, idle_since)
                continue
            if not self._settling.trials:
                with self.turns():  # who ends last leaves nothing of those that were killed meanwhile
                    self.recover_stale(listener)
                return ending or "all trials are done"
            answered = False
            while not answered:
                if self._beginning.left(end) <= 0:
                    self._give_up_in_flight(listener)
                    break
                for event in self._wait(self._beginning.left(end)):
                    if isinstance(event, Reached):
                        listener.reached(event.ticket, event.stage)
                    else:
                        self._settling.settle(event)
                        answered = True
                if time.monotonic() - self._recovered_at >= _RECOVERS_EVERY_SECONDS:
                    with self.turns():
                        self.recover_stale(listener)

    def _give_up_in_flight(self, listener: Listener) -> None:
        """Leave to the next run what has not ended in time, whatever it was expected to take."""
        self.crew.close()
        listener.happened("candidates left for want of time", trials=sorted(self._settling.trials))
        self._settling.interrupt_all()

    def _wait(self, most: float) -> Sequence[Event]:
        """Return what has happened in the crew; where nothing has for a moment, do what can be done meanwhile.

        Args:
            most: Seconds to wait at most.
        """
        if self.idle is not None and not len(self._waiting):
            events = self.crew.wait(_IDLE_AFTER_SECONDS)
            if events or self.idle():
                return events
        return self.crew.wait(min(_LOOKS_EVERY_SECONDS, most))

    def _wait_for_target(self, end: float | None, idle_since: float) -> None:
        """Pass the time until the target is tried again, where nothing else is left to do."""
        left = PATIENCE_SECONDS if end is None else end - self.clock()
        if self._waiting.is_hopeless(idle_since) or left <= 0:
            raise self._waiting.ending()
        self.sleep(min(left, self._waiting.pause_seconds))
