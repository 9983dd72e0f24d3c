"""How many channels each group of tied layers keeps, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT_AT_LEAST = 0.1
"""Fraction of its channels that a layer keeps where layers compete: one that loses nearly all cuts the network off."""


@dataclass(frozen=True)
class RankedChannels:
    """The channels of one group of tied layers, scored.

    Args:
        scores: Mean score of each position, shape (positions,); a position is one channel in every part.
        parts: Into how many equal parts the channels fall, as those of a grouped convolution do.
    """

    scores: Tensor
    parts: int

    def positions_step(self, multiple: int) -> int:
        """Return of what number the kept positions are a multiple, so that the channels are one of ``multiple``."""
        return multiple // math.gcd(multiple, self.parts)

    def weakest(self, kept_positions: int) -> list[int]:
        """Return the channels to remove, ascending: the same positions in every part."""
        positions = len(self.scores)
        places = torch.argsort(self.scores, stable=True)[: positions - kept_positions].tolist()
        return sorted(place + part * positions for place in places for part in range(self.parts))


def rank_channels(scores: Tensor, parts: int) -> RankedChannels:
    """Return the channels with their scores averaged over the parts; scores have the shape (channels,)."""
    return RankedChannels(scores.reshape(parts, -1).mean(dim=0), parts)


def kept_channels(channels: int, fraction: float, multiple: int) -> int:
    """Return how many of the channels stay: see ``multiple`` of :func:`~.channels.remove_channels`."""
    wanted = channels * (1.0 - fraction)
    if channels < multiple:
        return max(1, round(wanted))
    # half a step is rounded down, with room for what 1 - fraction loses in floating point
    steps = max(1, math.ceil(wanted / multiple - 0.5 - 1e-9)) if multiple > 1 else max(1, round(wanted))
    return min(channels, steps * multiple)


def keep_by_layer(groups: Sequence[RankedChannels], fraction: float, multiple: int) -> list[int]:
    """Return how many positions each group keeps where all lose the same fraction."""
    return [kept_channels(len(group.scores), fraction, group.positions_step(multiple)) for group in groups]


@dataclass(frozen=True, order=True)
class _Step:
    """Positions of one group that go together; ordered by what goes first."""

    score: float
    group: int
    positions: int


def keep_globally(groups: Sequence[RankedChannels], fraction: float, multiple: int) -> list[int]:
    """Return how many positions each group keeps where the channels of all groups compete.

    Scores are divided by their group's mean: weights of layers of other widths are not of one size. The lowest go
    until the fraction of all channels is reached as nearly as steps of ``multiple`` allow. A group keeps at least
    :data:`KEPT_AT_LEAST` of its channels, so a higher fraction ends there.
    """
    kept = [len(group.scores) for group in groups]
    wanted = fraction * sum(len(group.scores) * group.parts for group in groups)
    removed = 0
    closed: set[int] = set()
    for step in sorted(step for number, group in enumerate(groups) for step in _steps(number, group, multiple)):
        channels = step.positions * groups[step.group].parts
        if step.group in closed or removed + channels / 2 > wanted + 1e-9:
            # a later step of this group may not go before this one
            closed.add(step.group)
            continue
        removed += channels
        kept[step.group] -= step.positions
    return kept


def _steps(number: int, group: RankedChannels, multiple: int) -> list[_Step]:
    """Return the steps in which a group may lose positions, its weakest first."""
    scores = group.scores.double().sort(stable=True).values
    mean = float(scores.mean())
    positions = len(scores)
    step = group.positions_step(multiple) if positions >= group.positions_step(multiple) else 1
    least = max(step, math.ceil(KEPT_AT_LEAST * positions - 1e-9))
    steps, start = [], 0
    end = positions % step or step
    while positions - end >= least:
        score = float(scores[start:end].mean()) / (mean if mean > 0.0 else 1.0)
        steps.append(_Step(score, number, end - start))
        start, end = end, end + step
    return steps
