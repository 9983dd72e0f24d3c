"""Learning curves: what a training may still come to, told by the trainings that went before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PEERS = 5
"""How many earlier trainings a projection looks at; with fewer, nothing is projected."""


@dataclass(frozen=True)
class LearningCurve:
    """The metric of one training on the validation data, epoch by epoch.

    Args:
        kind: ``warm``, ``from scratch`` or ``aware``: curves of different kinds are not compared.
        epochs: Epochs of the whole schedule; neither are curves of different length.
        metrics: After each epoch, from the first; as many as ``epochs`` where it was not stopped.
    """

    kind: str
    epochs: int
    metrics: tuple[float, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the training went to its end."""
        return len(self.metrics) == self.epochs

    def standing(self, epoch: int) -> float:
        """Return the best metric up to that epoch, which is the one that training keeps."""
        return max(self.metrics[:epoch])


@dataclass(frozen=True)
class PastTraining:
    """A training that went to its end, and what came of it.

    Args:
        curve: Complete.
        end: The accuracy of the file, or the best metric of the training where that is more: rounding may have taken
            from this file what it leaves to another one.
    """

    curve: LearningCurve
    end: float


def optimistic_end(curve: LearningCurve, past: Sequence[PastTraining]) -> float | None:
    """Return what a training that has come so far may reach at most, or None where too little is known to say.

    Of the earlier trainings of its kind and length, the :data:`PEERS` are looked at that stood nearest to it at this
    epoch. Each may be outdone in one way only: one that stood lower is given the lead of the new one on top of its
    end. The largest of these is returned. So it supposes that the new training is like one of its peers, or worse;
    for the k nearest of many that are alike, one in k + 1 ends above them all. Nothing here depends on the unit or the
    zero of the metric.

    Args:
        curve: At least one epoch of it.
        past: Earlier trainings.
    """
    epoch = len(curve.metrics)
    peers = [other for other in past if (other.curve.kind, other.curve.epochs) == (curve.kind, curve.epochs)]
    if len(peers) < PEERS:
        return None
    standings = np.array([peer.curve.standing(epoch) for peer in peers])
    ends = np.array([peer.end for peer in peers])
    leads = curve.standing(epoch) - standings
    nearest = np.argsort(np.abs(leads), kind="stable")[:PEERS]
    return float(np.max(ends[nearest] + np.maximum(leads[nearest], 0.0)))


def is_rung(epoch: int, epochs: int) -> bool:
    """Say whether a training is looked at after this epoch: after 1, 2, 4, 8, ... but not after the last."""
    return epoch < epochs and epoch & (epoch - 1) == 0
