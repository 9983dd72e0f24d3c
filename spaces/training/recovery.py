"""Training that wins accuracy back: the task's own loss and distillation from the baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import CandidateFailure
from ..prediction import metric_of, pick_device, predict
from ..sparsity_names import ZeroPattern
from ..task import Task
from .attention_transfer import attention_transfer_loss
from .averaging import WeightAverage
from .batch_statistics import reestimate_normalization, statistics_inputs
from .distillation import Batches
from .teacher import Teacher
from .training_settings import TrainingSettings
from .training_steps import Steps, do_nothing, private_randomness, trainable
from .zeroing import WeightZeroing, zero_weights

HINT_SAMPLES = 2
"""Samples by which the layers are found whose features are compared."""

__all__ = ["TrainingReport", "TrainingSettings", "adopt", "metric_of", "pick_device", "predict", "train"]


@dataclass(frozen=True)
class TrainingReport:
    """What a training did.

    Args:
        epochs: Epochs trained.
        best_epoch: Epoch after which the kept weights stood; 0 for those it started from.
        best_metric: The task's metric on the validation data with the kept weights; None where nothing was trained.
        seconds: Wall-clock time.
    """

    epochs: int
    best_epoch: int
    best_metric: float | None
    seconds: float


def train(
    network: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    teacher: nn.Module | Teacher | None = None,
    zeroed_weights: float = 0.0,
    zero_pattern: ZeroPattern = "free",
    on_epoch: Callable[[int, float], None] | None = None,
    between_steps: Callable[[], None] = do_nothing,
) -> TrainingReport:
    """Train a network in place and keep its best weights by the task's metric on the validation data.

    Each epoch offers its weights, the same with the statistics of their batch normalization estimated anew, and, where
    the settings ask for it, their moving average. The weights it starts from count as well, so it never ends worse;
    with zeroing only those epochs count in which the final fraction of zeros stands. The network is left on the CPU in
    evaluation mode, torch's global random generators as they were. Parameters that ask for no gradient stay, unless
    none asks for one.

    Args:
        network: Changed in place.
        task: Data, loss and metric.
        settings: How to train.
        teacher: The network to learn from (Hinton et al. 2015, arXiv:1503.02531); left as it is. A
            :class:`~karui.spaces.training.teacher.Teacher` is worth making where several networks learn from it.
        zeroed_weights: Fraction of weights zeroed gradually, in [0, 1); at once where there are no epochs.
        zero_pattern: Where these zeros lie.
        on_epoch: Called after each epoch with its number, from 1, and its better metric; it may raise to stop.
        between_steps: Called after each step; it may wait.

    Raises:
        CandidateFailure: Where the loss or the metric is not a finite number.
    """
    started = time.monotonic()
    if settings.epochs == 0:
        zero_weights(network, zeroed_weights, zero_pattern)
        network.cpu().eval()
        return TrainingReport(epochs=0, best_epoch=0, best_metric=None, seconds=time.monotonic() - started)
    device = pick_device(settings.device)
    try:
        with private_randomness(settings.seed, device), torch.enable_grad():
            zeroing = WeightZeroing(network.to(device), zeroed_weights, zero_pattern)
            learned_from = None if teacher is None else Teacher.of(teacher, settings.precision)
            best = _fit(network, task, settings, learned_from, zeroing, on_epoch, between_steps, device)
    finally:
        network.cpu().eval()
    network.load_state_dict(best.state)
    return TrainingReport(settings.epochs, best.epoch, best.metric, time.monotonic() - started)


def adopt(
    network: nn.Module,
    task: Task,
    settings: TrainingSettings,
    *,
    zeroed_weights: float = 0.0,
    zero_pattern: ZeroPattern = "free",
) -> TrainingReport:
    """Take a network's weights as they are, with the better statistics of its batch normalization.

    Those it came with and those estimated anew are compared by the task's metric on the validation data. A network cut
    out of a supernet comes with statistics that belong to all its networks at once. The network is left on the CPU in
    evaluation mode, torch's global random generators as they were.

    Args:
        network: Changed in place: its zeros and statistics alone.
        task: Data and metric.
        settings: The device, and the seed of which samples the statistics are estimated from; the rest is not read.
        zeroed_weights: Fraction of weights zeroed at once, before that, in [0, 1).
        zero_pattern: Where these zeros lie.

    Raises:
        CandidateFailure: Where the metric is not a finite number.
    """
    started = time.monotonic()
    device = pick_device(settings.device)
    try:
        with private_randomness(settings.seed, device):
            zero_weights(network.to(device), zeroed_weights, zero_pattern)
            best = _better_statistics(network, task, 0, settings.seed)
    finally:
        network.cpu().eval()
    return TrainingReport(0, best.epoch, best.metric, time.monotonic() - started)


@dataclass(frozen=True)
class _Found:
    """Weights that may be kept, on the CPU, and the task's metric of them on the validation data."""

    epoch: int
    metric: float
    state: dict[str, Tensor]


def _fit(
    network: nn.Module,
    task: Task,
    settings: TrainingSettings,
    teacher: Teacher | None,
    zeroing: WeightZeroing,
    on_epoch: Callable[[int, float], None] | None,
    between_steps: Callable[[], None],
    device: torch.device,
) -> _Found:
    """Train on the device; return the best weights."""
    best = _better_statistics(network, task, 0, settings.seed) if zeroing.is_final else _Found(0, -math.inf, {})
    with_attention_transfer = settings.hint_weight > 0.0
    batches = Batches(
        task, settings.batch_size, teacher, seed=settings.order_seed, device=device, with_maps=with_attention_transfer
    )
    example = task.calibration_batch(HINT_SAMPLES)
    looked_at = teacher.resolutions(example) if with_attention_transfer and teacher is not None else ()
    hooked = attention_transfer_loss(network, looked_at, example) if looked_at else nullcontext()
    average = WeightAverage(network, settings.ema_decay) if settings.ema_decay else None
    total = settings.epochs * len(batches)
    with trainable(network) as parameters, hooked as transfer:
        steps = Steps(
            network, parameters, task, settings,
            zeroing=zeroing, average=average, total=total, between_steps=between_steps,
        )  # fmt: skip
        for epoch in range(1, settings.epochs + 1):
            network.train()
            loss = steps.run(batches, transfer)
            if not math.isfinite(loss):
                raise CandidateFailure("recovery", f"the loss became {loss} in epoch {epoch} of {settings.epochs}")
            found = _after_epoch(network, task, epoch, average, zeroing, settings.seed)
            if zeroing.is_final and found.metric >= best.metric:
                best = found
            if on_epoch is not None:
                on_epoch(epoch, found.metric)
    return best


def _better_statistics(network: nn.Module, task: Task, epoch: int, seed: int) -> _Found:
    """Leave the network with the better of its running statistics and those estimated anew, and return it.

    A layer that lost inputs hands on another mean and variance than the statistics that came with it say, and in a
    training of a few dozen steps they lag behind the weights. Putting that right costs no gradient.
    """
    came = _look(network, task, epoch)
    if not reestimate_normalization(network, statistics_inputs(task, seed=seed)):
        return came
    estimated = _look(network, task, epoch)
    if estimated.metric > came.metric:
        return estimated
    network.load_state_dict(came.state)
    return came


def _after_epoch(
    network: nn.Module, task: Task, epoch: int, average: WeightAverage | None, zeroing: WeightZeroing, seed: int
) -> _Found:
    """Return the better of the weights and their average; the average of two that are as good."""
    found = _better_statistics(network, task, epoch, seed)
    if average is None:
        return found
    with average.swapped_in():
        # the average still holds what weights were before they were zeroed
        zeroing.apply()
        # averaged statistics are not those of the averaged weights (Izmailov et al., UAI 2018, section 3.2)
        reestimate_normalization(network, statistics_inputs(task, seed=seed))
        averaged = _look(network, task, epoch)
    return averaged if averaged.metric >= found.metric else found


def _look(network: nn.Module, task: Task, epoch: int) -> _Found:
    state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
    return _Found(epoch, metric_of(network, task, task.validation), state)
