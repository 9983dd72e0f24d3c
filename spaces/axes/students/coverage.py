"""Which blocks and pixels of a model can go, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from ....errors import CandidateFailure
from ...task import Task
from .shallower import droppable_blocks, shallower


def describe_depths(depths: tuple[float, ...], task: Task) -> Iterator[str]:
    """Say how many blocks can be dropped at each depth, the greatest first."""
    example = task.calibration_batch(2)
    blocks = droppable_blocks(task.model, example)
    if not blocks:
        try:
            shallower(task.model, example, width=1.0, depth=depths[-1])
        except CandidateFailure as failure:
            yield f"none of the model's blocks can be dropped: {failure.reason}"
        else:
            yield "none of the model's blocks can be dropped, as none repeats: depths of [students] change nothing"
        return
    dropped = {depth: droppable_blocks(task.model, example, depth) for depth in depths}
    listed = ", ".join(f"{count or 'none'} at depth {depth:g}" for depth, count in dropped.items())
    yield f"{blocks} of the model's blocks can be dropped: {listed}"
    for depth in depths:
        spared: list[str] = []
        try:
            shallower(task.model, example, width=1.0, depth=depth, note=spared.append)
        except CandidateFailure as failure:
            yield f"the model cannot be cut to depth {depth:g}: {failure.reason}"
        yield from (f"at depth {depth:g}, {sentence}" for sentence in spared)


def describe_resolutions(resolutions: tuple[float, ...], task: Task) -> Iterator[str]:
    """Say at which resolutions the model cannot compute."""
    for resolution in resolutions:
        try:
            shallower(task.model, task.calibration_batch(2), width=1.0, depth=1.0, resolution=resolution)
        except CandidateFailure as failure:
            yield f"the model cannot compute at resolution {resolution:g}: {failure.reason}"
