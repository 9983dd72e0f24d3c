"""Promotion: at the end of a search the networks of its front are trained anew, for several times the epochs.

The search is one of several fidelities, with epochs as the fidelity: many candidates are told apart by short trainings,
and only what is best of them is trained for long. Of such schemes this is the plainest, with one step; Jamieson &
Talwalkar, AISTATS 2016 (successive halving), and Li et al., JMLR 2018 (Hyperband), take several. A promoted candidate
starts where its first training did, so that the schedule of its learning rate is whole.

A short training tells candidates apart no better than its measurements are known. So those are promoted as well that
are dominated, but not beyond noise (:func:`~karui.search.statistics.noise.edge_of_front`): after the front itself, the
likeliest :data:`~karui.search.promotion.MOST_WITHIN_NOISE` of them, and each only where there is time. None is
reserved for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import Trial, TrialState, create_trial

from ..spaces.building.recipe import ARCHITECTURE, RECOVERY, STATISTICS, training_names
from ..spaces.candidate import Candidate
from .objectives import Objective
from .outcome import Training, trainings_of
from .record import PROMOTED, TrialRecord
from .statistics.front import pareto_mask
from .statistics.noise import Differences, Floats, edge_of_front
from .trial_index import TrialIndex, counts

MOST_WITHIN_NOISE = 4
"""How many beside the front are promoted at most. With few samples to measure accuracy there are often more that may
belong to it than are on it, and each is trained for several times the epochs."""


@dataclass(frozen=True)
class Member:
    """A feasible candidate of fewer epochs, and what it becomes where it is promoted.

    Args:
        trial: Its number.
        values: Its measurements, in the order of the objectives.
        spreads: Half widths of their 95 % intervals.
        digest: SHA-256 of its file.
        promoted: The candidate of more epochs; itself where it is not trained.
        key: Of that.
        trainings: What has to be trained for it.
        seconds: How long everything but training takes.
    """

    trial: int
    values: tuple[float, ...]
    spreads: tuple[float, ...]
    digest: str
    promoted: Candidate
    key: str
    trainings: tuple[Training, ...]
    seconds: float


def front_members(members: Sequence[Member], objectives: Sequence[Objective]) -> list[Member]:
    """Return the trained ones that no other one dominates, each promoted candidate once."""
    mask = pareto_mask([member.values for member in members], objectives)
    return _once([member for member, kept in zip(members, mask, strict=True) if kept])


def members_within_noise(
    members: Sequence[Member], objectives: Sequence[Objective], differences: Differences | None = None
) -> list[Member]:
    """Return the trained ones that are dominated, but not beyond noise, the likeliest of the front first.

    No more than :data:`MOST_WITHIN_NOISE`, and none that becomes the same as one of the front.

    Args:
        members: All of them.
        objectives: Those of the study.
        differences: How well differences of files are known; values count as independent without it.
    """
    by_file: dict[str, Member] = {}
    for member in members:  # a file that another trial has as well counts once
        by_file.setdefault(member.digest, member)
    told = list(by_file.values())
    values, spreads = [member.values for member in told], [member.spreads for member in told]

    def among(indices: list[int]) -> Floats | None:
        return None if differences is None else differences([told[index].digest for index in indices])

    edge = [told[index] for index in edge_of_front(values, spreads, objectives, len(told), differences=among)]
    known = {member.key for member in front_members(members, objectives)}
    return [member for member in _once(edge) if member.key not in known][:MOST_WITHIN_NOISE]


def _once(members: Sequence[Member]) -> list[Member]:
    return list({member.key: member for member in members if member.trainings}.values())


MOST_RESERVED = 0.5
"""Most of a search's time that is left to promotion; where it needs more, it goes as far as it comes."""

_NOT_AGAIN = (STATISTICS, ARCHITECTURE, "draft")
"""Beside trainings, which take longer, stages that a promoted candidate does not have as its twin had them: it needs no
proxy, and what making its architecture may have trained, a supernet, is there."""


class Promotion:
    """Knows who is to be promoted, how long that may take, and begins it.

    Who is promoted is decided among candidates of fewer epochs alone, so that nobody is compared with those who have
    been promoted already, and a search that is killed in the middle goes on with the same ones.

    Args:
        study: The study.
        objectives: Names and directions, in the order of the study's directions.
        trial_index: What is known already.
        factor: How many times the epochs; 1 for no promotion.
        differences: How well differences of files are known; values count as independent without it.
    """

    def __init__(
        self,
        study: optuna.Study,
        objectives: Sequence[Objective],
        trial_index: TrialIndex,
        factor: int,
        differences: Differences | None = None,
    ) -> None:
        self.factor = factor
        self.done = 0
        self.done_within_noise = 0
        self._study = study
        self._objectives = objectives
        self._trial_index = trial_index
        self._differences = differences
        self._feasible: list[Member] = []
        self._kills: dict[str, int] = {}
        self._seconds: dict[Training, float] = {}
        self._trials_seconds: list[float] = []
        self._untried: set[Training] = set()
        """Trainings that a search at these epochs leaves out: how long they take is known once one was promoted."""
        self._trained: set[Training] = set()
        self._begun: dict[int, bool] = {}
        """By the number of the trial, whether its twin was on the front itself."""
        self._in_training: set[Training] = set()

    def learn(self, record: TrialRecord) -> None:
        """Take up a trial that has ended."""
        if self.factor == 1 or record.candidate is None:
            return
        if record.number in self._begun and counts(record):
            self.done += 1
            self.done_within_noise += not self._begun[record.number]
        if record.kills:
            self._kills[record.key] = max(record.kills, self._kills.get(record.key, 0))
        if record.outcome is None:
            return
        trainings = trainings_of(record.candidate)
        done = {stage.stage: stage.seconds for stage in record.outcome.stages if not stage.cached}
        for training in trainings:
            if training[0] in done:
                self._seconds[training] = done[training[0]] / record.candidate.epochs_factor
        if STATISTICS in done:
            self._untried.update(training for training in trainings if training[0] == RECOVERY)
        if record.candidate.epochs_factor == self.factor:
            self._trained.update(trainings)
        if record.candidate.epochs_factor < self.factor and record.feasible:
            self._feasible.append(self._member(record, done))
        if not record.is_promoted and any(stage in done for stage, _ in trainings):
            self._trials_seconds.append(sum(done.values()))

    def missing(self, seconds_left: float = math.inf) -> list[Member]:
        """Return the trained ones to be promoted whose promotion is neither known nor in flight, the front's first.

        Args:
            seconds_left: How much time there is; whoever would take longer is left out. Of the front one of whom
                nothing says how long it takes is not.
        """
        front = [member for member in self._missing_of_front() if self._may_fit(member, seconds_left)]
        return [*front, *self._missing_within_noise(seconds_left)]

    def _missing_of_front(self) -> list[Member]:
        front = front_members(self._feasible, self._objectives)
        return [member for member in front if self._trial_index.is_new(member.key)]

    def _missing_within_noise(self, seconds_left: float) -> list[Member]:
        members = members_within_noise(self._feasible, self._objectives, self._differences)
        on_edge = (member for member in members if self._expected(member) <= seconds_left)
        return [member for member in on_edge if self._trial_index.is_new(member.key)]

    def reserve(self, size: int, seconds: float | None) -> float:
        """Return how many seconds to leave for promoting the front, told by how long the trainings of the search took.

        That is the work shared out evenly, or the longest of the candidates where that is more; and as much as it
        takes to promote one that the search begins just before. What was never trained here, because
        another study had done it, counts as the mean of the others. Where there are none, and a network took its
        weights from a supernet as they were, nothing says how long its training may take: as much is left as ever is.

        Args:
            size: How many candidates are made at a time.
            seconds: How long the whole run may take; None for no limit, and then nothing has to be left.
        """
        if self.factor == 1 or seconds is None:
            return 0.0
        missing = self._missing_of_front()
        trainings = {training for member in missing for training in self._left(member)}
        whole = sum(map(self._expected_seconds, trainings)) + sum(member.seconds for member in missing)
        each = map(self._expected, missing)
        last = self.factor * _mean(self._trials_seconds)
        return min(max(whole / size, *each, 0.0) + last, MOST_RESERVED * seconds)

    def begin(self, owner: dict[str, Any], seconds_left: float = math.inf) -> tuple[Trial, Candidate] | None:
        """Begin the trial of the next candidate to be promoted, and return both; None where there is none.

        The front itself comes first. Of it, and of those beside it, one whose networks are trained already comes first,
        since it costs next to nothing; one that would have to wait for a network in training last.

        Args:
            owner: The mark of this search.
            seconds_left: As for :meth:`missing`.
        """
        candidates = [each for each in self._missing_of_front() if self._may_fit(each, seconds_left)]
        is_front = bool(candidates)
        candidates = candidates or self._missing_within_noise(seconds_left)
        if not candidates:
            return None
        member = min(candidates, key=lambda each: (self._rank(each), each.trial))
        self._in_training.update(member.trainings)
        first = self._study.get_trials(deepcopy=False)[member.trial]
        # Not by way of the queue: what waits there is the search's, and would come first.
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=first.params,
                distributions=first.distributions,
                user_attrs={PROMOTED: self.factor, "owner": owner, "attempts": 1 + self._kills.get(member.key, 0)},
            )
        )
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        own = (trial for trial in running if trial.user_attrs.get("owner") == owner)
        trial = Trial(self._study, max(own, key=lambda each: each.number)._trial_id)
        self._begun[trial.number] = is_front
        return trial, member.promoted

    def describe(self, ending: str) -> str:
        """Return in one sentence why a search ended and who was promoted in it."""
        told = [ending]
        if self.done:
            beside = f" ({self.done_within_noise} within noise)" if self.done_within_noise else ""
            told.append(
                f"{_candidates(self.done)} of the front{beside} trained anew for {self.factor} times the epochs"
            )
        if late := len(self._missing_of_front()):
            told.append(f"no time was left to train {_candidates(late)} of the front anew")
        return "; ".join(told)

    def _may_fit(self, member: Member, seconds_left: float) -> bool:
        """Say whether there is time to promote it, as far as is known; where nothing is, there may be."""
        expected = self._expected(member)
        return math.isinf(expected) or expected <= seconds_left

    def _member(self, record: TrialRecord, done: Mapping[str, float]) -> Member:
        not_again = training_names().union(_NOT_AGAIN)
        promoted = replace(record.candidate or Candidate(), epochs_factor=self.factor).canonical()
        return Member(
            trial=record.number,
            values=record.values([objective.name for objective in self._objectives]),
            spreads=record.spreads([objective.name for objective in self._objectives]),
            digest=record.outcome.digest if record.outcome else "",
            promoted=promoted,
            key=promoted.key,
            trainings=trainings_of(promoted),
            seconds=sum(seconds for stage, seconds in done.items() if stage not in not_again),
        )

    def _left(self, member: Member) -> list[Training]:
        return [training for training in member.trainings if training not in self._trained]

    def _rank(self, member: Member) -> int:
        left = self._left(member)
        return 0 if not left else 1 + any(training in self._in_training for training in left)

    def _expected(self, member: Member) -> float:
        """Return how long its promotion may take."""
        return sum(map(self._expected_seconds, self._left(member))) + member.seconds

    def _expected_seconds(self, training: Training) -> float:
        alike = [seconds for (stage, _), seconds in self._seconds.items() if stage == training[0]]
        if not alike and training in self._untried:
            return math.inf
        return self.factor * self._seconds.get(training, _mean(alike))


def without_replaced(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Leave out the feasible trials whose place a promoted one takes: the same candidate, trained for longer.

    It takes it where it is feasible and at least as accurate. Dominance alone would keep both: the packed files of two
    trainings differ by some bytes, and what is measured of them by noise.
    """
    versions: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.feasible and record.candidate is not None:
            versions.setdefault(replace(record.candidate, epochs_factor=1).key, []).append(record)
    replaced = {
        record.number
        for alike in versions.values()
        for record in alike
        if any(_takes_the_place(other, record) for other in alike)
    }
    return [record for record in records if record.number not in replaced]


def _takes_the_place(longer: TrialRecord, shorter: TrialRecord) -> bool:
    epochs = [record.candidate.epochs_factor if record.candidate else 1 for record in (longer, shorter)]
    return epochs[0] > epochs[1] and longer.values(["accuracy"]) >= shorter.values(["accuracy"])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _candidates(count: int) -> str:
    return "1 candidate" if count == 1 else f"{count} candidates"
