"""Which choices mean the same network for one task's model, so that it is trained and measured once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from ..errors import CandidateFailure
from .build import make_from_baseline
from .candidate import Architecture, Baseline, Candidate, Student
from .space import SearchSpace
from .students.names import SHALLOWER
from .task import Task

_Choice = tuple[Baseline | Student, float]
"""An architecture that starts from the baseline's weights, and the fraction of channels removed from it."""

_Signature = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of a network's parameters and buffers: the baseline's weights do the rest."""


class Equivalence:
    """Maps candidates to the one that stands for all that mean the same file, for one task.

    :meth:`Candidate.canonical` knows what holds for every model. Here, networks made from the baseline's weights are
    made and compared: a depth that drops no block, or two fractions that the channel multiple rounds to the same
    counts, are the same network.

    Args:
        task: The task, its model trained.
        space: What may be chosen.
        channel_multiple: As in :class:`~karui.spaces.build_settings.BuildSettings`.
    """

    def __init__(self, task: Task, space: SearchSpace, channel_multiple: int) -> None:
        example = task.calibration_batch(2)
        representatives: dict[_Signature, _Choice] = {}
        self._stands_for: dict[tuple[Architecture, float], _Choice] = {}
        for choice in _warm_choices(space):
            try:
                with torch.random.fork_rng():
                    network = make_from_baseline(task.model, example, *choice, channel_multiple)
            except CandidateFailure:
                continue  # it fails again when it is built, and is recorded then
            self._stands_for[choice] = representatives.setdefault(_signature(network), choice)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate that stands for all that mean the same file."""
        candidate = candidate.canonical()
        choice = (candidate.architecture, candidate.removed_channels)
        if choice not in self._stands_for:
            return candidate
        architecture, removed = self._stands_for[choice]
        return replace(candidate, architecture=architecture, removed_channels=removed)


def _warm_choices(space: SearchSpace) -> Iterator[_Choice]:
    """Yield what starts from the baseline's weights, the plainest description of a network first."""
    students = space.students if space.students is not None and SHALLOWER in space.students.families else None
    widths = students.widths if students is not None else ()
    fractions = {0.0, *(space.sparsity.removed_channels if space.sparsity is not None else ())}
    fractions |= {Candidate(Student(SHALLOWER, width)).canonical().removed_channels for width in widths}
    for fraction in sorted(fractions):
        yield Baseline(), fraction
    if students is not None:
        for width in sorted(widths, reverse=True):
            for depth in sorted(set(students.depths) - {1.0}, reverse=True):
                yield Student(SHALLOWER, width, depth), 0.0


def _signature(network: nn.Module) -> _Signature:
    return tuple((name, tuple(tensor.shape)) for name, tensor in network.state_dict().items())
