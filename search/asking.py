"""What to ask for next where the sampler alone would not: first trials, followers, and what nobody has tried."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import optuna
from optuna.trial import Trial

from ..spaces.candidate import Candidate, network_of
from ..spaces.space import SearchSpace, problem_of
from .following import Followers, Following, is_followed
from .ledger import Ledger, counts
from .outcome import Outcome
from .promotable import ADOPTION, RECOVERY
from .record import PROMOTED, TrialRecord

FOLLOWER = "follower"
"""The attribute of a trial that was queued because its network had just been trained."""

_DRAWS = 200
_ENUMERABLE = 100_000


@dataclass(frozen=True)
class Asking:
    """Queues trials in a study, and remembers which networks it has seen.

    Args:
        study: The study.
        space: What may be chosen.
        ledger: What is known already.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        seed: Seed of what is drawn here.
        followers: How many trials that differ in nothing but bits and exits follow a newly trained network; ``auto``
            for as many as are worth it.
        following: Says which are, where that is asked for.
    """

    study: optuna.Study
    space: SearchSpace
    ledger: Ledger
    canonical: Callable[[Candidate], Candidate]
    seed: int
    followers: Followers
    following: Following
    _networks: set[str] = field(default_factory=set, init=False)

    def note(self, record: TrialRecord) -> None:
        """Take up a trial that has ended."""
        if counts(record):
            network = self._network(record.parameters)
            self._networks.add(network)
            if self.followers == "auto":
                self.following.learn(record, network)

    def queue_first(self, first: Sequence[Mapping[str, Any]]) -> None:
        """Queue what a new study begins with."""
        for parameters in first:
            self.study.enqueue_trial(dict(parameters), skip_if_exists=True)

    def queue_followers(self, trial: Trial, outcome: Outcome) -> None:
        """Queue trials that share the network of this one, where it had to be trained; the sampler chooses the rest.

        A promoted one has no followers: those on the front that share its network are promoted as well.
        """
        if PROMOTED in trial.user_attrs or self.followers == "auto":
            return
        stages = {stage.stage for stage in outcome.stages}
        # What another study has trained is as good as trained here: the search goes the same way.
        found = "network" in stages and self._network(trial.params) not in self._networks and self._is_trained(trial)
        if not self.space.has_followers or not (found or stages & {RECOVERY, ADOPTION}):
            return
        for _ in range(self.followers):
            self.study.enqueue_trial(self.space.follower_parameters(trial.params), user_attrs={FOLLOWER: True})

    def queue_worthwhile(self, record: TrialRecord) -> None:
        """Queue one more trial that shares the trained network of this one, where that is worth more than a new one.

        Args:
            record: A trial of this search that has been noted just now.
        """
        if self.followers != "auto" or not self.space.has_followers or not is_followed(record):
            return
        if self.following.is_worthwhile(self._network(record.parameters)):
            self.study.enqueue_trial(self.space.follower_parameters(record.parameters), user_attrs={FOLLOWER: True})

    def queue_sibling(self, trial: Trial) -> None:
        """Where the sampler chose bits for a follower that are known already, choose others at random."""
        if not trial.user_attrs.get(FOLLOWER):
            return
        siblings = [
            parameters for parameters, candidate in self.space.siblings(trial.params) if self._is_new(candidate)
        ]
        if siblings:
            self.study.enqueue_trial(self._chance().choice(siblings))

    def queue_unknown(self) -> bool:
        """Queue a random candidate that was not tried yet; False where the space is known to hold none."""
        chance = self._chance()
        drawn = (self.space.random_point(chance) for _ in range(_DRAWS))
        listed = islice(self.space.points(), _ENUMERABLE)
        for parameters, candidate in chain(drawn, listed):
            if self._is_new(candidate) and problem_of(candidate) is None:
                self.study.enqueue_trial(parameters)
                return True
        return False

    def _network(self, parameters: Mapping[str, Any]) -> str:
        return str(sorted(self.space.network_parameters(parameters).items()))

    def _is_trained(self, trial: Trial) -> bool:
        """Say whether the trial's network is trained before it is rounded: any but the baseline itself."""
        return network_of(Candidate.from_dict(trial.user_attrs["candidate"])) != Candidate()

    def _is_new(self, candidate: Candidate) -> bool:
        return self.ledger.is_new(self.canonical(candidate).key)

    def _chance(self) -> random.Random:
        return random.Random(f"{self.seed} {len(self.ledger.known) + len(self.ledger.own)}")
