"""The recipe of a candidate: the ordered steps that make its file, told once and read by all who ask how it is made."""

from __future__ import annotations

from dataclasses import dataclass

from ..axes.axis import all_axes
from ..candidate import BuildStage, Candidate, network_of
from ..step import Step

ARCHITECTURE, RECOVERY, STATISTICS, EXPORT, PACKING = "architecture", "recovery", "statistics", "export", "packing"
"""The steps of the build itself; those of the axes are named by them."""


@dataclass(frozen=True)
class Recipe:
    """How a study makes a candidate's file.

    Args:
        candidate: Canonical.
        steps: In their order; steps of one name in a row are one, to whoever is told.
        network_key: Under which key of the cache the float32 file of its trained network is kept.
        aware_key: The same for the network trained on with rounded weights; empty where none is.
        seed: Seed of all its training.
    """

    candidate: Candidate
    steps: tuple[Step, ...]
    network_key: str
    aware_key: str
    seed: int

    def at(self, *stages: BuildStage) -> tuple[Step, ...]:
        """Return the steps of some stages."""
        return tuple(step for step in self.steps if step.stage in stages)

    @property
    def epochs(self) -> int:
        """How many epochs its network is trained before it is exported."""
        return sum(step.epochs for step in self.at(BuildStage.TRAINING))

    @property
    def in_integers(self) -> bool:
        """Whether its file computes in integers."""
        return any(step.in_integers for step in self.steps)

    @property
    def is_learnt(self) -> bool:
        """Whether how fast its file is depends on what it has learnt."""
        return any(step.is_learnt for step in self.steps)


def steps_of(candidate: Candidate) -> tuple[Step, ...]:
    """Return the steps that make a candidate's file, whatever the study: how long they train is not known here.

    Its network is made, trained where it is any other than the baseline, exported and packed; to that the axes add what
    they do, one after the other, or put theirs in the place of one that stands there.

    Args:
        candidate: Canonical.
    """
    steps = [Step(ARCHITECTURE, BuildStage.NETWORK)]
    if network_of(candidate) != Candidate():
        steps.append(Step(RECOVERY, BuildStage.TRAINING, training="recovery"))
    steps += [Step(EXPORT, BuildStage.EXPORT), Step(PACKING, BuildStage.PACKING)]
    for axis in all_axes().values():
        steps = sorted(axis.add_steps(candidate, steps), key=lambda step: step.stage)
    return tuple(steps)


def trainings_of(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """Return the trainings behind a candidate's file: the step, and what tells it from others of that name."""
    candidate = candidate.canonical()
    return tuple((step.name, candidate.through(step.stage).key) for step in steps_of(candidate) if step.training)


def training_names() -> frozenset[str]:
    """Return the names of all steps that train."""
    return frozenset({RECOVERY}.union(*(axis.trainings for axis in all_axes().values())))


def trains_network(candidate: Candidate) -> bool:
    """Say whether a candidate's network is trained before it is exported: any but the baseline is."""
    return any(step.stage == BuildStage.TRAINING for step in steps_of(candidate.canonical()))


def trains_on(candidate: Candidate) -> bool:
    """Say whether a candidate goes on training once its network is trained and exported."""
    return any(step.training and step.stage > BuildStage.EXPORT for step in steps_of(candidate.canonical()))
