"""Whether the axes of a space fit a task: said at the start, not after an hour."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...errors import CandidateFailure, SpaceError, TaskError
from ..axes.axis import Axis
from ..data.named import Named, Shapes, describe_shapes, shapes_of
from ..networks.running import outputs_of
from ..space import SearchSpace
from ..task import Task, iterate


def check_fit(space: SearchSpace, task: Task) -> None:
    """Check that the task's model, loss and labels fit together, and each axis that is searched the task.

    Raises:
        SpaceError: Where an axis needs images or classes and the task has something else.
        TaskError: Where the model or the loss does not work on the task's own data.
    """
    outputs = _output_shape(task)
    _check_labels(task, outputs)
    _check_loss(task)
    for axis in space.axes:
        axis.check(task, outputs)


def misfits(axes: Mapping[str, Axis], task: Task) -> dict[str, SpaceError]:
    """Return which of these axes cannot work on a task, and why, by their names.

    Raises:
        TaskError: Where the model does not work on the task's own data.
    """
    outputs = _output_shape(task)
    reasons: dict[str, SpaceError] = {}
    for name, axis in axes.items():
        try:
            axis.check(task, outputs)
        except SpaceError as error:
            reasons[name] = error
    return reasons


def _check_labels(task: Task, outputs: Shapes) -> None:
    """Check that there is a name for each output, where there are names."""
    if task.labels and outputs != (len(task.labels),):
        raise TaskError(
            "the task's labels do not fit its model",
            where="Task(labels=...)",
            expected=f"a name for each of the outputs, whose shape is {outputs}",
            got=f"{len(task.labels)} names",
            remedy="name every output once, in their order, or leave labels out",
        )


def _check_loss(task: Task) -> None:
    """Try the loss on one batch: a loss that can never work would fail every trained candidate, one by one."""
    inputs, targets = next(iterate(task.train, 8))
    try:
        with torch.no_grad():
            loss = task.loss(task.model.eval()(inputs), targets)
            finite = bool(torch.isfinite(loss).all())
    except Exception as error:  # the loss is the user's code and may raise anything
        reason = error.reason if isinstance(error, CandidateFailure) else f"{type(error).__name__}: {error}"
        raise _bad_loss(" ".join(reason.split())) from error
    if not finite:
        raise _bad_loss(f"{loss}")


def _bad_loss(got: str) -> TaskError:
    return TaskError(
        "the task's loss does not work on the task's own model and data",
        where="Task(loss=...)",
        expected="a finite number for (outputs, targets) of a batch",
        got=got,
        remedy="check the loss and the type of the targets (class indices are int64)",
    )


def _output_shape(task: Task) -> Shapes:
    example = task.calibration_batch(2)
    try:
        with torch.no_grad():
            outputs = outputs_of(task.model.cpu().eval(), example)
    except Exception as error:  # a user's forward may raise anything
        raise TaskError(
            "the task's model does not run on the task's data",
            where="Task(model=..., train=...)",
            expected=f"a model that takes a batch of shape {describe_shapes(example)} in {task.input_type}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}",
        ) from error
    if isinstance(outputs, Named):
        return shapes_of(outputs)  # each was looked at when the task was made
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2 or len(outputs) != len(example):
        got = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise TaskError(
            "the task's model does not give one row of outputs for each input",
            where="Task(model=...)",
            expected=f"one tensor of shape ({len(example)}, outputs, ...)",
            got=str(got),
        )
    return tuple(outputs.shape[1:])
