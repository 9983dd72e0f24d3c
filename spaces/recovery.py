"""Training that wins accuracy back: the task's own loss and distillation from the baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CandidateFailure
from .distillation import Batches, distillation_loss
from .prediction import metric_of, pick_device, predict
from .sparsity.weights import WeightZeroing, zero_weights
from .task import Task

__all__ = ["TrainingReport", "TrainingSettings", "metric_of", "pick_device", "predict", "train"]

WARM_UP = 0.3
"""Share of the training in which the learning rate rises."""
LARGEST_GRADIENT_NORM = 5.0
ZEROING_STEPS = 30
"""How often gradual zeroing chooses its weights anew over one training, at most."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; two trainings of equal settings on one machine give equal weights.

    Args:
        epochs: Passes over the training data; 0 for none.
        batch_size: Samples per step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled weight decay (Loshchilov & Hutter, ICLR 2019).
        temperature: Softening of both distributions in distillation.
        distillation_weight: Share of distillation in the loss, in [0, 1]; the rest is the task's own.
        device: A torch device such as ``cuda:1``; where None, the first of CUDA, MPS and CPU that is there.
        seed: Seed of the order of the samples, of dropout and of augmentation.

    Raises:
        ValueError: On a value without meaning.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    temperature: float = 4.0
    distillation_weight: float = 0.7
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        rules = (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("learning_rate", 0.0 < self.learning_rate < math.inf, "a finite number above 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "a finite number, 0 or more"),
            ("temperature", 0.0 < self.temperature < math.inf, "a finite number above 0"),
            ("distillation_weight", 0.0 <= self.distillation_weight <= 1.0, "a number from 0 to 1"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise ValueError(f"TrainingSettings.{name}: expected {expected}, got {getattr(self, name)!r}")


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
    teacher: nn.Module | None = None,
    zeroed_weights: float = 0.0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainingReport:
    """Train a network in place and keep its best weights by the task's metric on the validation data.

    The weights it starts from count as well, so it never ends worse; with zeroing only those epochs count in which
    the final fraction of zeros stands. The network is left on the CPU in evaluation mode, torch's global random
    generators as they were. Parameters that ask for no gradient stay, unless none asks for one.

    Args:
        network: Changed in place.
        task: Data, loss and metric.
        settings: How to train.
        teacher: The network to learn from (Hinton et al. 2015, arXiv:1503.02531); left as it is.
        zeroed_weights: Fraction of weights zeroed gradually, in [0, 1); at once where there are no epochs.
        on_epoch: Called after each epoch with its number, from 1, and the metric; it may raise to stop the training.

    Raises:
        CandidateFailure: Where the loss or the metric is not a finite number.
    """
    started = time.monotonic()
    if settings.epochs == 0:
        zero_weights(network, zeroed_weights)
        network.cpu().eval()
        return TrainingReport(epochs=0, best_epoch=0, best_metric=None, seconds=time.monotonic() - started)
    device = pick_device(settings.device)
    try:
        with _private_randomness(settings.seed, device), torch.enable_grad():
            best = _fit(network.to(device), task, settings, teacher, zeroed_weights, on_epoch, device)
    finally:
        network.cpu().eval()
    network.load_state_dict(best.state)
    return TrainingReport(settings.epochs, best.epoch, best.metric, time.monotonic() - started)


@dataclass(frozen=True)
class _Best:
    epoch: int
    metric: float
    state: dict[str, Tensor]


def _fit(
    network: nn.Module,
    task: Task,
    settings: TrainingSettings,
    teacher: nn.Module | None,
    zeroed_weights: float,
    on_epoch: Callable[[int, float], None] | None,
    device: torch.device,
) -> _Best:
    """Train on the device; return the best state, on the CPU."""
    zeroing = WeightZeroing(network, zeroed_weights)
    best = _Best(0, -math.inf, {})
    if zeroing.is_final:
        best = _Best(0, metric_of(network, task, task.validation), _state(network))
    batches = Batches(task, settings.batch_size, teacher, seed=settings.seed, device=device)
    with _trainable(network) as parameters:
        steps = _Steps(network, parameters, task, settings, zeroing, settings.epochs * len(batches))
        for epoch in range(1, settings.epochs + 1):
            network.train()
            loss = steps.run(batches)
            if not math.isfinite(loss):
                raise CandidateFailure("recovery", f"the loss became {loss} in epoch {epoch} of {settings.epochs}")
            metric = metric_of(network, task, task.validation)
            if zeroing.is_final and metric >= best.metric:
                best = _Best(epoch, metric, _state(network))
            if on_epoch is not None:
                on_epoch(epoch, metric)
    return best


class _Steps:
    """The optimizer's steps, counted over the whole training."""

    def __init__(
        self,
        network: nn.Module,
        parameters: list[nn.Parameter],
        task: Task,
        settings: TrainingSettings,
        zeroing: WeightZeroing,
        total: int,
    ) -> None:
        self._network, self._parameters, self._task, self._settings = network, parameters, task, settings
        self._zeroing = zeroing
        self._total, self._done = total, 0
        self._optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def run(self, batches: Batches) -> float:
        """Make one epoch's steps; return the sum of their losses."""
        losses = []
        for inputs, targets, taught in batches:
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.learning_rate * one_cycle((self._done + 0.5) / self._total)
            loss = self._loss(self._network(inputs), targets, taught)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT_NORM)
            self._optimizer.step()
            self._done += 1
            if self._done % max(1, self._total // ZEROING_STEPS) == 0 or self._done == self._total:
                self._zeroing.step(self._done / self._total)
            self._zeroing.apply()
            losses.append(loss.detach())
        # one look per epoch: a look per step would make an accelerator wait, and a loss that is not finite stays so
        return float(torch.stack(losses).sum())

    def _loss(self, outputs: Tensor, targets: Tensor, taught: Tensor | None) -> Tensor:
        loss = self._task.loss(outputs, targets)
        if taught is None:
            return loss
        share = self._settings.distillation_weight
        return (1.0 - share) * loss + share * distillation_loss(outputs, targets, taught, self._settings.temperature)


def one_cycle(progress: float) -> float:
    """Return the learning rate as a share of its peak: up and down on two half cosines (Smith & Topin 2017).

    Args:
        progress: How much of the training is done, in [0, 1].
    """
    if progress < WARM_UP:
        start, phase = 1.0 / 25.0, 1.0 - progress / WARM_UP
    else:
        start, phase = 0.0, (progress - WARM_UP) / (1.0 - WARM_UP)
    return start + (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * phase))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}


@contextmanager
def _trainable(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters to train; where the whole network is frozen it thaws for the while."""
    parameters = list(network.parameters())
    frozen = [] if any(parameter.requires_grad for parameter in parameters) else parameters
    for parameter in frozen:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        yield [parameter for parameter in parameters if parameter.requires_grad]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _private_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and set them back afterwards."""
    accelerators = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices=accelerators, device_type=device.type if accelerators else "cuda"):
        torch.manual_seed(seed)
        yield
