"""How long training takes in bfloat16 beside float32, on the machine that trains."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..spaces.data.batches import Targets, iterate, map_targets, slice_targets
from ..spaces.networks.memory_layout import channels_first
from ..spaces.networks.running import copy_network
from ..spaces.prediction import pick_device
from ..spaces.task import Task
from ..spaces.training.precision import Precision, outputs_in
from ..spaces.training.training_steps import private_randomness, task_loss, trainable
from .probing import is_faster, is_slower

PAIRS = 6
"""Pairs of passes that are timed. The median of a distribution lies between the least and the largest of six draws in
96.9 % of all cases, whatever the distribution (1 - 2 / 2^6)."""

MAX_SECONDS = 10.0
"""About the longest time for all of them; a model that takes longer for a batch is tried on less of it."""

FEWEST_SAMPLES = 2
"""Batch normalization cannot train on one."""


@dataclass(frozen=True)
class TrainingSpeed:
    """What a training step takes in bfloat16.

    Args:
        time_ratio: Time over that in float32, the median over pairs of passes, one after the other.
        time_spread: Half the distance of the least and the largest, which is the interval of the median.
    """

    time_ratio: float
    time_spread: float

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than float32 by more than the noise."""
        return is_faster(self.time_ratio, self.time_spread)

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than float32 by more than the noise."""
        return is_slower(self.time_ratio, self.time_spread)


def training_speed(
    task: Task, batch_size: int, device: str | None = None, *, max_seconds: float = MAX_SECONDS
) -> TrainingSpeed:
    """Time passes of the task's model over one batch, forth and back, in float32 and in bfloat16 by turns.

    Args:
        task: Its model is left as it is.
        batch_size: Samples of a step, at most.
        device: Where training runs; the accelerator that torch finds where None.
        max_seconds: About how long it may take.

    Raises:
        RuntimeError: Where torch cannot compute it there; other errors are those of the model.
    """
    place = pick_device(device)
    with private_randomness(0, place), torch.enable_grad():
        network = copy_network(task.model).to(place).train()
        inputs, targets = next(iter(iterate(task.train, batch_size)))
        inputs, targets = channels_first(inputs).to(place), map_targets(lambda part: part.to(place), targets)
        with trainable(network) as parameters:
            passes = _Passes(network, parameters, task)
            samples = _samples(passes, inputs, targets, max_seconds)
            inputs, targets = inputs[:samples], slice_targets(targets, slice(samples))
            passes.ratio(inputs, targets)  # the first ones make what later ones reuse
            ratios = [passes.ratio(inputs, targets) for _ in range(PAIRS)]
    return TrainingSpeed(float(np.median(ratios)), (max(ratios) - min(ratios)) / 2)


def _samples(passes: _Passes, inputs: Tensor, targets: Targets, max_seconds: float) -> int:
    """Return how many samples of a batch can be tried within the time."""
    few = min(FEWEST_SAMPLES, len(inputs))
    first = inputs[:few], slice_targets(targets, slice(few))
    passes.seconds("float32", *first)
    each = passes.seconds("float32", *first) / few
    return int(np.clip(max_seconds / (each * 2 * (PAIRS + 1)), few, len(inputs)))


class _Passes:
    def __init__(self, network: nn.Module, parameters: list[nn.Parameter], task: Task) -> None:
        self._network, self._parameters, self._task = network, parameters, task

    def ratio(self, inputs: Tensor, targets: Targets) -> float:
        plain = self.seconds("float32", inputs, targets)
        return self.seconds("bfloat16", inputs, targets) / plain

    def seconds(self, precision: Precision, inputs: Tensor, targets: Targets) -> float:
        begin = time.perf_counter()
        loss = task_loss(self._task, outputs_in(precision, self._network, inputs), targets)
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        found = next((gradient for gradient in gradients if gradient is not None), loss)
        float(found.flatten()[0])  # a number makes an accelerator finish
        return time.perf_counter() - begin
