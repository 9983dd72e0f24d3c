"""How many channels each group of tied layers keeps, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .channel_graph import TiedChannels

KEPT_AT_LEAST = 0.1
"""Fraction of its channels that a layer keeps where layers compete: one that loses nearly all cuts the network off."""


@dataclass(frozen=True)
class RankedChannels:
    """What can go of one group of tied layers, scored.

    Args:
        scores: Score of each unit, lowest for what goes first, shape (units,); a unit is one channel, or several that
            go together, as one of every part of a grouped convolution does.
        parts: How many channels a unit is.
        held: Channels that cannot go; the fraction is of the others.
    """

    scores: Tensor
    parts: int
    held: int = 0

    @property
    def channels(self) -> int:
        """All channels, those that cannot go as well."""
        return len(self.scores) * self.parts + self.held

    def step(self, multiple: int) -> int:
        """Return of what number the units that go are a multiple, so that channels are left in multiples."""
        return multiple // math.gcd(multiple, self.parts)

    def weakest(self, kept_units: int) -> list[int]:
        """Return the numbers of the units that go, ascending."""
        gone = torch.argsort(self.scores, stable=True)[: len(self.scores) - kept_units].tolist()
        return sorted(gone)


def rank_channels(scores: Tensor, tied: TiedChannels) -> RankedChannels:
    """Return what can go of a group with the scores of its units, shape (units,)."""
    parts = max(1, round(sum(tied.counts) / len(tied.counts)))
    return RankedChannels(scores, parts, max(0, tied.channels - len(tied.counts) * parts))


def kept_channels(channels: int, fraction: float, multiple: int) -> int:
    """Return how many of the channels stay: see ``multiple`` of :func:`~.channels.remove_channels`; of two counts that
    are as near, the lower."""
    return _nearest(RankedChannels(torch.zeros(channels), 1), fraction, multiple)[0]


def _nearest(group: RankedChannels, fraction: float, multiple: int) -> list[int]:
    """Return the counts of units that are left nearest to the fraction, ascending: one, or two that are as near."""
    units = len(group.scores)
    wanted = group.held + units * group.parts * (1.0 - fraction)
    counts = list(range(1, units + 1))
    if group.channels >= multiple:
        even = [count for count in counts if (group.held + count * group.parts) % multiple == 0]
        counts = sorted({*even, units})
    off = {count: abs(group.held + count * group.parts - wanted) for count in counts}
    best = min(off.values())
    # with room for what 1 - fraction loses in floating point
    return [count for count in counts if off[count] <= best + 1e-9 * group.channels]


def keep_by_layer(groups: Sequence[RankedChannels], fraction: float, multiple: int) -> list[int]:
    """Return how many units each group keeps where all lose the same fraction.

    Where two counts are as near, the lower ones are for the groups whose units between the two matter least to them,
    as long as that brings the fraction of all channels nearer.
    """
    nearest = [_nearest(group, fraction, multiple) for group in groups]
    kept = [counts[-1] for counts in nearest]
    surplus = sum(
        (count - len(group.scores) * (1.0 - fraction)) * group.parts for count, group in zip(kept, groups, strict=True)
    )
    lost = {
        number: _share_between(groups[number], *counts) for number, counts in enumerate(nearest) if len(counts) == 2
    }
    for number in sorted(lost, key=lambda each: lost[each]):
        step = (kept[number] - nearest[number][0]) * groups[number].parts
        if abs(surplus - step) <= abs(surplus):
            surplus -= step
            kept[number] = nearest[number][0]
    return kept


def _share_between(group: RankedChannels, low: int, high: int) -> float:
    """Return what share of a group's importance goes with one count of units more than with the other."""
    scores = group.scores.double().sort(stable=True, descending=True).values
    return float(scores[low:high].sum() / scores.sum().clamp(min=1e-30))


@dataclass(frozen=True, order=True)
class _Step:
    """Units of one group that go together; ordered by what goes first."""

    score: float
    group: int
    units: int


def keep_globally(groups: Sequence[RankedChannels], fraction: float, multiple: int) -> list[int]:
    """Return how many units each group keeps where the channels of all groups compete.

    Scores are divided by their group's mean: weights of layers of other widths are not of one size. The lowest go
    until the fraction of all channels is reached as nearly as steps of ``multiple`` allow. A group keeps at least
    :data:`KEPT_AT_LEAST` of its channels, so a higher fraction ends there.
    """
    kept = [len(group.scores) for group in groups]
    wanted = fraction * sum(len(group.scores) * group.parts for group in groups)
    removed = 0
    closed: set[int] = set()
    for step in sorted(step for number, group in enumerate(groups) for step in _steps(number, group, multiple)):
        channels = step.units * groups[step.group].parts
        if step.group in closed or removed + channels / 2 > wanted + 1e-9:
            # a later step of this group may not go before this one
            closed.add(step.group)
            continue
        removed += channels
        kept[step.group] -= step.units
    return kept


def _steps(number: int, group: RankedChannels, multiple: int) -> list[_Step]:
    """Return the steps in which a group may lose units, its weakest first."""
    scores = group.scores.double().sort(stable=True).values
    mean = float(scores.mean())
    units = len(scores)
    step = group.step(multiple) if units >= group.step(multiple) else 1
    least = max(step, math.ceil(KEPT_AT_LEAST * units - 1e-9))
    steps, start = [], 0
    end = units % step or step
    while units - end >= least:
        score = float(scores[start:end].mean()) / (mean if mean > 0.0 else 1.0)
        steps.append(_Step(score, number, end - start))
        start, end = end, end + step
    return steps
