"""Loss and metric of classification, for class indices however a data set gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import TaskError


def top1_accuracy(outputs: Tensor, targets: Any) -> float:
    """Return the share of rows whose largest output is the target class.

    Args:
        outputs: Logits, shape (n, classes, ...), two classes or more.
        targets: Class indices, shape (n, ...) or as one column (n, 1, ...); or a score for each class, shaped as the
            outputs, such as one-hot rows.

    Raises:
        TaskError: Where outputs or targets have other shapes.
    """
    predicted = _predicted(outputs)
    return float((predicted == class_indices(outputs, targets)).double().mean())


def cross_entropy(outputs: Tensor, targets: Any) -> Tensor:
    """Return torch's cross entropy, a scalar, for targets as :func:`top1_accuracy` takes them.

    Raises:
        TaskError: As :func:`top1_accuracy`.
    """
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape == outputs.shape:
        return nn.functional.cross_entropy(outputs, targets)  # a share for each class
    _check_outputs(outputs)
    return nn.functional.cross_entropy(outputs, class_indices(outputs, targets).long())


def class_indices(outputs: Tensor, targets: Any) -> Tensor:
    """Return the class of each row of outputs: the targets without their column, or the best of their scores.

    Raises:
        TaskError: Where the targets are no classes of these outputs.
    """
    expected = (outputs.shape[0], *outputs.shape[2:])
    if isinstance(targets, Tensor) and tuple(targets.shape) == expected:
        found = targets
    elif isinstance(targets, Tensor) and tuple(targets.shape) == (expected[0], 1, *expected[1:]):
        found = targets.squeeze(1)
    elif isinstance(targets, Tensor) and targets.shape == outputs.shape:
        found = targets.argmax(dim=1)
    else:
        raise TaskError(
            "these targets are no classes of the model's outputs",
            where="Task(metric=..., loss=...): karui's own, which stand where none are given",
            expected=f"class indices of shape {expected}, one column of them, or a score for each class",
            got=f"targets of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__,
            remedy="give the task a loss and a metric that read these targets",
        )
    if found.is_floating_point() and not torch.equal(found, found.round()):
        raise TaskError(
            "these targets are no class indices",
            where="Task(metric=..., loss=...): karui's own, which stand where none are given",
            expected="whole numbers, one for each row",
            got=f"targets such as {float(found[found != found.round()][0]):g}",
            remedy="give the task a loss and a metric that read these targets",
        )
    return found


def _predicted(outputs: Tensor) -> Tensor:
    _check_outputs(outputs)
    return outputs.argmax(dim=1)


def _check_outputs(outputs: Tensor) -> None:
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise TaskError(
            "the model's outputs are no scores of classes",
            where="Task(metric=..., loss=...): karui's own, which stand where none are given",
            expected="outputs of shape (n, classes, ...), two classes or more",
            got=f"shape {tuple(outputs.shape)}",
            remedy="give the task a loss and a metric for these outputs, such as a threshold for one score",
        )
