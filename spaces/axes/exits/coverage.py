"""Where an early exit can lie in a model, and whether its task has classes to be sure of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ....errors import CandidateFailure
from ...formats.onnx.onnx_file import read_model
from ...task import Task, iterate
from .cut import STAGE, find_cuts

MOST_PLACES = 8
"""Places of an exit that are named one by one; of more, the first and the last."""


def describe_places(task: Task, baseline: Path) -> Iterator[str]:  # noqa: ARG001
    """Say where an exit can lie in the model's float32 file."""
    try:
        shares = [cut.share for cut in find_cuts(read_model(baseline, STAGE))]
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


def kind_of_targets(task: Task, output_shape: Any) -> str | None:
    """Say what the task's targets are where they are no classes; None where they are, and its outputs as well."""
    _, targets = next(iterate(task.train, 8))
    classes = isinstance(targets, torch.Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    if classes and isinstance(output_shape, tuple) and len(output_shape) == 1 and output_shape[0] > 1:
        return None
    return f"{targets.dtype}, shape {tuple(targets.shape)}" if isinstance(targets, torch.Tensor) else f"{type(targets)}"
