"""Students before they are trained."""

from __future__ import annotations

from torch import nn

from ...step import NetworkMaterials
from .choice import Student
from .families import build_family
from .names import SHALLOWER
from .shallower import shallower
from .warm_start import warm_start


def start(student: Student, materials: NetworkMaterials) -> nn.Module:
    """Return a student before it is trained.

    Raises:
        CandidateFailure: Where the model does not run without those blocks or channels.
        ValueError: Where the family does not fit the task.
    """
    if student.family == SHALLOWER:
        return shallower(
            materials.baseline,
            materials.example,
            width=student.width,
            depth=student.depth,
            resolution=student.resolution,
            channel_multiple=materials.multiple,
            note=materials.note,
        )
    network = build_family(
        student.family, width=student.width, input_shape=materials.input_shape, outputs=materials.outputs
    )
    warm_start(network, materials.baseline, materials.example)
    return network
