"""What is tried next: Optuna's samplers by name, and what is queued where a sampler alone would not ask for it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe import sampler as optuna_tpe
from optuna.trial import FrozenTrial, Trial, TrialState

from ..spaces.building.recipe import RECOVERY, STATISTICS, trains_network
from ..spaces.candidate import Candidate
from ..spaces.space import SearchSpace, problem_of
from .outcome import Outcome
from .record import PROMOTED, TrialRecord
from .trial_index import TrialIndex, counts
from .weight_sharing import Followers, WeightSharing, is_followed

FOLLOWER = "follower"
"""The attribute of a trial that was queued because its network had just been trained."""

_DRAWS = 200
_ENUMERABLE = 100_000


@dataclass(frozen=True)
class Proposals:
    """Queues trials in a study, and remembers which networks it has seen.

    Args:
        study: The study.
        space: What may be chosen.
        trial_index: What is known already.
        canonical: Maps a candidate to the one that stands for all that mean the same file.
        seed: Seed of what is drawn here.
        followers: How many trials that differ in nothing but bits and exits follow a newly trained network; ``auto``
            for as many as are worth it.
        weight_sharing: Says which are, where that is asked for.
    """

    study: optuna.Study
    space: SearchSpace
    trial_index: TrialIndex
    canonical: Callable[[Candidate], Candidate]
    seed: int
    followers: Followers
    weight_sharing: WeightSharing
    _networks: set[str] = field(default_factory=set, init=False)

    def note(self, record: TrialRecord) -> None:
        """Take up a trial that has ended."""
        if counts(record):
            network = self._network(record.parameters)
            self._networks.add(network)
            if self.followers == "auto":
                self.weight_sharing.learn(record, network)

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
        if not self.space.has_followers or not (found or stages & {RECOVERY, STATISTICS}):
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
        if self.weight_sharing.is_worthwhile(self._network(record.parameters)):
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
        """Say whether the trial's network is trained before it is rounded."""
        return trains_network(Candidate.from_dict(trial.user_attrs["candidate"]))

    def _is_new(self, candidate: Candidate) -> bool:
        return self.trial_index.is_new(self.canonical(candidate).key)

    def _chance(self) -> random.Random:
        return random.Random(f"{self.seed} {len(self.trial_index.known) + len(self.trial_index.own)}")


_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class OneSplitTPESampler(optuna.samplers.TPESampler):
    """Suggests what :class:`optuna.samplers.TPESampler` suggests with the same arguments and seed, sooner.

    Optuna's sampler reads all trials, ranks them by dominance and chooses the good ones by hypervolume anew for every
    parameter, though the answer is the same for all parameters of a trial. With three objectives that is most of what
    TPE costs. Here the answer is kept for the trial. Promoted trials are left out: their parameters are known to be
    good by trials of fewer epochs, which all others are compared with.

    This overrides a method that Optuna does not promise to keep. A test compares both samplers; where Optuna has moved
    what is used here, its own method takes over.
    """

    _split: tuple[int, list[FrozenTrial], list[FrozenTrial]] | None = None

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not hasattr(optuna_tpe, "_split_trials"):
            return super()._sample(study, trial, search_space)
        good_trials, bad_trials = self._split_for(study, trial)
        good = self._build_parzen_estimator(study, search_space, good_trials, handle_below=True)
        bad = self._build_parzen_estimator(study, search_space, bad_trials, handle_below=False)
        drawn = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, good, bad))
        return {name: each.to_external_repr(best[name]) for name, each in search_space.items()}

    def _split_for(self, study: optuna.Study, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        if self._split is None or self._split[0] != trial.number:
            states = (*_FINISHED, TrialState.RUNNING) if self._constant_liar else _FINISHED
            trials = [
                each
                for each in study.get_trials(deepcopy=False, states=states)
                if each.number != trial.number and PROMOTED not in each.user_attrs
            ]
            finished = sum(each.state != TrialState.RUNNING for each in trials)
            gamma = self._gamma or optuna_tpe.default_gamma_multiobjective
            self._split = (trial.number, *optuna_tpe._split_trials(study, trials, gamma(finished)))
        return self._split[1], self._split[2]


SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    # Parameters one by one. Jointly (multivariate, grouped) is no better where followers are as many as pay: in ten
    # searches of a known front 92.8 % of it in 4,500 simulated seconds, instead of 94.0 % (standard errors 0.9 and 1.4;
    # benchmarks/search_cost.py). With two followers each it was ahead, 94.0 to 91.2 %; without any it trained more
    # networks to the same share, 110 instead of 86 (benchmarks/search_known.py).
    # constant_liar counts candidates in flight, this search's and others', as bad ones, so that what is asked for
    # meanwhile lies elsewhere; with one at a time it changes nothing.
    return OneSplitTPESampler(multivariate=False, constant_liar=True, n_startup_trials=12, seed=seed)


SAMPLERS: dict[SamplerName, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=16),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def make_sampler(name: SamplerName, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of that name.

    Args:
        name: ``tpe`` (parameters one by one), ``nsga2``, ``nsga3``, ``gp`` or ``random``.
        seed: Seeds the sampler's own random numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)
