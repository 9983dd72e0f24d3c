"""Which choices mean the same network for one task's model, so that it is trained and measured once."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from ...errors import CandidateFailure
from ..axes.axis import all_axes
from ..candidate import Architecture, Baseline, Candidate
from ..space import SearchSpace
from ..step import NetworkMaterials
from ..task import Task
from .network_factory import loss_gradient, make_network

GRADIENT_BATCH = 64
"""Samples of a batch by whose gradients channels are ranked here: where layers compete, their counts follow from it."""

_Signature = tuple[float, tuple[tuple[str, tuple[int, ...]], ...]]
"""A network's resolution, and names and shapes of its parameters and buffers: the baseline's weights do the rest."""


class Equivalence:
    """Maps candidates to the one that stands for all that mean the same file, for one task.

    :meth:`Candidate.canonical` knows what holds for every model. Here, networks made from the baseline's weights are
    made and compared: a depth that drops no block, or two fractions that the channel multiple rounds to the same
    counts, are the same network.

    Args:
        task: The task, its model trained.
        space: What may be chosen.
        channel_multiple: As in :class:`~karui.spaces.building.build_settings.BuildSettings`.
    """

    def __init__(self, task: Task, space: SearchSpace, channel_multiple: int) -> None:
        gradient = loss_gradient(task, GRADIENT_BATCH, seed=0)
        materials = NetworkMaterials(task.model, task.calibration_batch(2), channel_multiple, gradient)
        whole = _signature(task.model, Baseline())
        representatives: dict[tuple[_Signature, tuple[str, ...]], Candidate] = {}
        self._stands_for: dict[Candidate, Candidate] = {}
        for choice in _warm_choices(space):
            try:
                with torch.random.fork_rng():
                    network = make_network(choice, materials)
            except CandidateFailure:
                continue  # it fails again when it is built, and is recorded then
            signature = _signature(network, choice.architecture)
            # By what channels were chosen matters only where some are gone.
            axes = () if signature == whole else all_axes().values()
            kept_by = tuple(axis.keeps_by(choice) for axis in axes)
            self._stands_for[choice] = representatives.setdefault((signature, kept_by), choice)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate that stands for all that mean the same file."""
        candidate = candidate.canonical()
        # Nothing but what decides the network that it starts from.
        representative = self._stands_for.get(Candidate().starting_from(candidate))
        return candidate if representative is None else candidate.starting_from(representative).canonical()


def _warm_choices(space: SearchSpace) -> list[Candidate]:
    """Return what starts from the baseline's weights, the plainest description of a network first."""
    cuts = dict.fromkeys([Candidate(), *chain.from_iterable(axis.cuts() for axis in space.axes)])
    return sorted(cuts, key=lambda cut: cut.architecture.kind != Baseline.kind)


def _signature(network: nn.Module, architecture: Architecture) -> _Signature:
    resolution = float(getattr(architecture, "resolution", 1.0))
    return resolution, tuple((name, tuple(tensor.shape)) for name, tensor in network.state_dict().items())
