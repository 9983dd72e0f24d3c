"""Who is worth promoting: the members of a front, and those beside it that belong to it within noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..spaces.candidate import Candidate, network_of
from .front import pareto_mask
from .noise import Differences, Floats, edge_of_front
from .objectives import Objective

MOST_WITHIN_NOISE = 4
"""How many beside the front are promoted at most. With few samples to measure accuracy there are often more that may
belong to it than are on it, and each is trained for several times the epochs."""

RECOVERY, AWARE = "recovery", "aware training"
"""The stages that train."""

ADOPTION = "statistics"
"""The stage that a network has in place of its recovery where a supernet's weights are taken as they are."""

Training = tuple[str, str]
"""The stage, and what tells one training of that stage from the others."""


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


def trainings_of(candidate: Candidate) -> tuple[Training, ...]:
    """Return the trainings behind a candidate's file, the same ones for however many epochs."""
    plain = replace(candidate, epochs_factor=1)
    network = network_of(plain)
    recovery = [(RECOVERY, network.key)] if network != Candidate() else []
    aware = [(AWARE, replace(plain, exit_depth=0.0).key)] if plain.bit_training == "aware" else []
    return (*recovery, *aware)
