"""How much of the user's own model each axis reaches: told at the start, in sentences."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from ..space import SearchSpace
from ..task import Task


def describe_coverage(space: SearchSpace, task: Task, baseline: Path) -> list[str]:
    """Return a sentence for each axis that changes the baseline's own layers, what it leaves alone and where.

    An axis that reaches nothing is no error: the others are still searched, and each candidate that needs it fails
    with its reason.

    Args:
        space: What is searched.
        task: The task, its model trained.
        baseline: The model's float32 ONNX file.
    """
    later = any(axis.trains_later for axis in space.axes)
    tellers = dict.fromkeys(chain.from_iterable(axis.coverage(later) for axis in space.axes))
    return [sentence for tell in tellers for sentence in tell(task, baseline)]
