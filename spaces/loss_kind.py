"""What a task's loss says of the outputs that it is given: whether they are logits of classes."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .data.batches import Targets, map_targets
from .data.class_targets import cross_entropy
from .task import Task

_FUNCTIONS = (cross_entropy, nn.functional.cross_entropy)

_TOLERANCE = 1e-3

_KNOWN: WeakKeyDictionary[Task, dict[tuple[int, ...], bool]] = WeakKeyDictionary()


def are_class_indices(targets: Targets) -> bool:
    """Say whether targets are whole numbers, one for each sample."""
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        return False
    return not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)


def outputs_are_logits(task: Task, shape: torch.Size, targets: Targets) -> bool:
    """Say whether the task's loss takes outputs for logits of classes; it is found out once for a task.

    Torch's cross entropy does. Any other loss is tried on outputs drawn at random: it does where it minds no shift of
    all outputs of a row and where, of the gradient of a row, only that of the target class would raise an output. A
    loss of embeddings with a classifier of its own, a distance, or the squared error minds the shift.

    Args:
        task: Its loss is called on the device of the targets; a loss that is a module is copied first.
        shape: Shape of a batch of outputs, (n, ...).
        targets: The targets of that batch.
    """
    known = _KNOWN.setdefault(task, {})
    kind = tuple(shape[1:])
    if kind not in known:
        known[kind] = _may_be_logits(shape) and (_is_cross_entropy(task.loss) or _behaves_so(task.loss, shape, targets))
    return known[kind]


def _may_be_logits(shape: torch.Size) -> bool:
    return len(shape) >= 2 and shape[1] >= 2


def _is_cross_entropy(loss: Any) -> bool:
    while True:
        if isinstance(loss, partial):
            loss = loss.func
        elif hasattr(loss, "guards"):  # a function of the user's that studies have put another around
            loss = loss.guards
        else:
            return loss in _FUNCTIONS or type(loss) is nn.CrossEntropyLoss


def _behaves_so(loss: Any, shape: torch.Size, targets: Targets) -> bool:
    classes = _column_of_classes(targets)
    if classes is None or len(shape) != 2:
        return False
    counted = (classes >= 0) & (classes < shape[1])  # others are those that a loss ignores
    if not bool(counted.any()):
        return False
    try:
        tried = copy.deepcopy(loss)
    except Exception:
        return False
    drawn = torch.Generator().manual_seed(0)
    outputs = torch.randn(shape, generator=drawn).to(classes.device)
    shift = 3.0 * torch.randn(shape[0], 1, generator=drawn).to(classes.device)
    devices = [] if classes.device.type != "cuda" else [classes.device]
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            value, gradient = _value_and_gradient(tried, outputs, targets)
            shifted, _ = _value_and_gradient(tried, outputs + shift, targets)
    except Exception:  # the loss is the user's: what it raises here, it says where it counts
        return False
    if not abs(value - shifted) <= _TOLERANCE * max(1.0, abs(value)) or not bool(gradient.isfinite().all()):
        return False
    rows = counted & (gradient != 0).any(dim=1)
    lowest = gradient.argmin(dim=1) == classes
    return bool(rows.any()) and bool((lowest | ~rows).all())


def _value_and_gradient(loss: Any, outputs: Tensor, targets: Targets) -> tuple[float, Tensor]:
    leaf = outputs.clone().requires_grad_(True)
    value = loss(leaf * 1.0, map_targets(torch.clone, targets))
    (gradient,) = torch.autograd.grad(value.reshape(()), leaf)
    return float(value.detach()), gradient


def _column_of_classes(targets: Targets) -> Tensor | None:
    """Return the class index of each row; None where the targets hold none, or hold several things."""
    if isinstance(targets, dict) and len(targets) == 1:
        targets = next(iter(targets.values()))
    if isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    return targets.long() if are_class_indices(targets) else None
