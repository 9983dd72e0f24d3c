"""How much of the user's own model each axis reaches: told at the start, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import CandidateFailure
from .candidate import FLOAT_BITS
from .exits.cut import STAGE as EXIT
from .exits.cut import find_cuts
from .onnx_file import read_model
from .quantization.quantize import quantization_reach
from .space import SearchSpace
from .sparsity.channel_reach import channel_reach
from .students.axis import StudentsAxis
from .students.names import SHALLOWER
from .students.shallower import droppable_blocks, shallower
from .task import Task
from .zero_reach import gradual_reach, one_shot_reach

MOST_REASONS = 4
"""Layers that are named one by one; of more, the rest is counted."""

MOST_PLACES = 8
"""Places of an exit that are named one by one; of more, the first and the last."""


def describe_reach(space: SearchSpace, task: Task, baseline: Path) -> list[str]:
    """Return a sentence for each axis that changes the baseline's own layers, what it leaves alone and where.

    An axis that reaches nothing is no error: the others are still searched, and each candidate that needs it fails
    with its reason.

    Args:
        space: What is searched.
        task: The task, its model trained.
        baseline: The model's float32 ONNX file.
    """
    return [
        *_channels(space, task),
        *_zeros(space, task, baseline),
        *_depths(space, task),
        *_resolutions(space, task),
        *_bits(space, baseline),
        *_exits(space, baseline),
    ]


def _channels(space: SearchSpace, task: Task) -> Iterator[str]:
    removed = space.sparsity is not None and any(space.sparsity.removed_channels)
    students = _shallower(space)
    if not removed and (students is None or min(students.widths) == 1.0):
        return
    try:
        reach = channel_reach(task.model, task.calibration_batch(2))
    except CandidateFailure as failure:
        yield f"channels can be removed from none of the model's layers: {failure.reason}"
        return
    yield f"channels can be removed from {reach}{_listed(reach.reasons)}"


def _zeros(space: SearchSpace, task: Task, baseline: Path) -> Iterator[str]:
    if space.sparsity is None or not any(space.sparsity.zeroed_weights):
        return
    times = set(space.sparsity.zeroing)
    if space.bits is not None and "aware" in space.bits.training and space.bits.has_integers:
        times.add("gradual")  # where rounded weights are trained, zeros come gradually
    if "gradual" in times:
        gradual = gradual_reach(task.model)
        yield f"weights can be zeroed gradually in {gradual}{_listed(gradual.left)}"
    if "one_shot" in times:
        try:
            at_once = one_shot_reach(baseline)
        except CandidateFailure as failure:
            yield f"weights of none of the model's layers can be zeroed at once: {failure.reason}"
            return
        yield f"weights can be zeroed at once in {at_once}{_listed(at_once.left)}"


def _depths(space: SearchSpace, task: Task) -> Iterator[str]:
    students = _shallower(space)
    depths = sorted(set(students.depths) - {1.0}, reverse=True) if students is not None else []
    if not depths:
        return
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


def _resolutions(space: SearchSpace, task: Task) -> Iterator[str]:
    students = _shallower(space)
    if students is None:
        return
    for resolution in sorted(set(students.resolutions) - {1.0}, reverse=True):
        try:
            shallower(task.model, task.calibration_batch(2), width=1.0, depth=1.0, resolution=resolution)
        except CandidateFailure as failure:
            yield f"the model cannot compute at resolution {resolution:g}: {failure.reason}"


def _shallower(space: SearchSpace) -> StudentsAxis | None:
    """Return the axis of students where it makes them of the model itself."""
    return space.students if space.students is not None and SHALLOWER in space.students.families else None


def _bits(space: SearchSpace, baseline: Path) -> Iterator[str]:
    if space.bits is None or not space.bits.has_integers:
        return
    for activations in space.bits.activations:
        beside = "float32" if activations == FLOAT_BITS else f"{activations}-bit"
        try:
            reach = quantization_reach(baseline, activations)
        except CandidateFailure as failure:
            yield f"weights of none of the model's layers can be rounded: {failure.reason}"
            return
        found = f"{reach.quantized_layers} of {reach.all_layers} layers"
        yield f"weights can be rounded beside {beside} activations in {found}{_listed(reach.left)}"


def _exits(space: SearchSpace, baseline: Path) -> Iterator[str]:
    if space.exits is None or not any(space.exits.depths):
        return
    try:
        shares = [cut.share for cut in find_cuts(read_model(baseline, EXIT))]
    except CandidateFailure as failure:
        yield f"the model can have no early exit: {failure.reason}"
        return
    if not shares:
        yield "the model can have no early exit: no activation of four axes lies on every path through it"
        return
    places = "1 place" if len(shares) == 1 else f"{len(shares)} places"
    behind = ", ".join(f"{share:.0%}" for share in shares)
    if len(shares) > MOST_PLACES:
        behind = f"{shares[0]:.0%} to {shares[-1]:.0%}"
    yield f"an early exit can lie at {places} of the model, behind {behind} of its multiply-adds"


def _listed(reasons: tuple[str, ...]) -> str:
    if not reasons:
        return ""
    more = f"; {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return f" (not {'; not '.join(reasons[:MOST_REASONS])}{more})"
