"""Of which layers of a model channels and weights can go, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ....errors import CandidateFailure
from ...reasons import listed
from ...task import Task
from .channel_coverage import channel_coverage
from .zero_coverage import gradual_coverage, one_shot_coverage


def channels(task: Task, baseline: Path) -> Iterator[str]:  # noqa: ARG001
    """Say from which layers channels can be removed."""
    try:
        reach = channel_coverage(task.model, task.calibration_batch(2))
    except CandidateFailure as failure:
        yield f"channels can be removed from none of the model's layers: {failure.reason}"
        return
    yield f"channels can be removed from {reach}{listed(reach.reasons)}"


def gradual_zeros(task: Task, baseline: Path) -> Iterator[str]:  # noqa: ARG001
    """Say in which layers weights can be zeroed while they are trained."""
    gradual = gradual_coverage(task.model)
    yield f"weights can be zeroed gradually in {gradual}{listed(gradual.left)}"


def zeros_at_once(task: Task, baseline: Path) -> Iterator[str]:  # noqa: ARG001
    """Say in which layers of the model's float32 file weights can be zeroed at once."""
    try:
        at_once = one_shot_coverage(baseline)
    except CandidateFailure as failure:
        yield f"weights of none of the model's layers can be zeroed at once: {failure.reason}"
        return
    yield f"weights can be zeroed at once in {at_once}{listed(at_once.left)}"
