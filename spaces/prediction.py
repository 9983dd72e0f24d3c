"""Running a network over a whole split, and the task's metric of it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CandidateFailure, KaruiError
from .data.batches import Outputs, Pairs, Targets, iterate, join_targets
from .data.named import joined
from .task import Task

EVALUATION_BATCH = 256


def pick_device(name: str | None) -> torch.device:
    """Return the named device; where None, the first of CUDA, MPS and CPU that is there."""
    if name is not None:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def place_of(network: nn.Module) -> torch.device:
    """Return the device a network is on; the CPU where it holds no tensor."""
    return next((tensor.device for tensor in network.state_dict().values()), torch.device("cpu"))


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put every part of a network in evaluation mode and record no gradients; set the flags back afterwards."""
    flags = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags.items():
            module.training = training


def predict(network: nn.Module, split: Pairs, *, device: str | torch.device | None = None) -> tuple[Outputs, Targets]:
    """Return outputs and targets of a whole split, both on the CPU; the network runs in evaluation mode.

    Args:
        network: Left as it is, except that it moves to ``device`` where one is given.
        split: Pairs of input and target.
        device: Where to run; where None, where the network is.
    """
    if device is not None:
        network.to(device)
    place = place_of(network)
    with evaluation_mode(network):
        batches = [(network(inputs.to(place)).cpu(), targets) for inputs, targets in iterate(split, EVALUATION_BATCH)]
    outputs, targets = zip(*batches, strict=True)
    return joined(outputs), join_targets(targets)


def metric_of(network: nn.Module, task: Task, split: Pairs, device: str | torch.device | None = None) -> float:
    """Return the task's metric of a network on one of the task's splits, such as ``task.validation``.

    Raises:
        CandidateFailure: Where the metric raises, or gives NaN or no number.
    """
    outputs, targets = predict(network, split, device=device)
    try:
        answer: object = task.metric(outputs, targets)
    except (KaruiError, CandidateFailure):
        raise
    except Exception as error:  # the metric is the user's code and may raise anything
        reason = f"the metric {task.metric_name!r} raised {type(error).__name__}: {error}"
        raise CandidateFailure("recovery", reason) from error
    value = one_number(answer)
    if value is None or math.isnan(value):
        raise CandidateFailure("recovery", f"the metric {task.metric_name!r} is not a number: it returned {answer!r}")
    return value


def one_number(answer: object) -> float | None:
    """Return what a metric gave as a number: a number, a truth value, or a tensor or array of one; else None."""
    if isinstance(answer, (Tensor, np.ndarray, np.generic)):
        if (answer.numel() if isinstance(answer, Tensor) else answer.size) != 1:
            return None
        answer = answer.item()
    return float(answer) if isinstance(answer, numbers.Real) else None
