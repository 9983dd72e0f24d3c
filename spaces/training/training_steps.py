"""The optimizer's steps over one training, and what happens beside each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import CandidateFailure
from ..data.batches import Outputs, Targets, map_targets
from ..data.named import Named
from ..loss_kind import outputs_are_logits
from ..output_losses import distance
from ..task import Task
from .attention_transfer import AttentionHints
from .averaging import WeightAverage
from .distillation import Batches, distillation_loss
from .precision import outputs_in
from .teacher import TeacherOutput
from .training_settings import TrainingSettings
from .zeroing import WeightZeroing

WARM_UP = 0.3
"""Share of the training in which the learning rate rises."""
LARGEST_GRADIENT_NORM = 5.0
ZEROING_STEPS = 30
"""How often gradual zeroing chooses its weights anew over one training, at most."""


def do_nothing() -> None:
    """Do nothing between two steps."""


class Steps:
    """The optimizer's steps, counted over the whole training.

    Args:
        network: Changed in place.
        parameters: Those of the network that are trained.
        task: Its loss.
        settings: How to train.
        zeroing: Zeroes weights as the training goes on.
        average: Follows the weights, where there is one.
        total: Steps in the whole training.
        between_steps: Called after each step; it may wait.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: list[nn.Parameter],
        task: Task,
        settings: TrainingSettings,
        *,
        zeroing: WeightZeroing,
        average: WeightAverage | None,
        total: int,
        between_steps: Callable[[], None] = do_nothing,
    ) -> None:
        self._between_steps = between_steps
        self._network, self._parameters, self._task, self._settings = network, parameters, task, settings
        self._zeroing, self._average = zeroing, average
        self._total, self._done = total, 0
        self._optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def run(self, batches: Batches, transfer: AttentionHints | None) -> float:
        """Make one epoch's steps; return the sum of their losses."""
        losses = []
        for inputs, targets, taught in batches:
            for group in self._optimizer.param_groups:
                group["lr"] = self._settings.learning_rate * one_cycle((self._done + 0.5) / self._total)
            outputs = outputs_in(self._settings.precision, self._network, inputs)
            loss = training_loss(self._task, self._settings, outputs, targets, taught)
            if transfer is not None:
                assert taught is not None
                assert taught.maps is not None
                loss = loss + self._settings.hint_weight * transfer.loss(taught.maps)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT_NORM)
            self._optimizer.step()
            self._after_step()
            losses.append(loss.detach())
            self._between_steps()
        # one look per epoch: a look per step would make an accelerator wait, and a loss that is not finite stays so
        return float(torch.stack(losses).sum())

    def _after_step(self) -> None:
        self._done += 1
        if self._done % max(1, self._total // ZEROING_STEPS) == 0 or self._done == self._total:
            self._zeroing.step(self._done / self._total)
        self._zeroing.apply()
        if self._average is not None:
            self._average.update()


def training_loss(
    task: Task, settings: TrainingSettings, outputs: Outputs, targets: Targets, taught: TeacherOutput | None
) -> Tensor:
    """Return the task's own loss, mixed with that of distillation where there are a teacher's outputs.

    Args:
        task: Its loss.
        settings: Share and temperature of the distillation.
        outputs: The network's.
        targets: Those of the same samples.
        taught: What the teacher says, its outputs shaped as ``outputs``.
    """
    loss = task_loss(task, outputs, targets)
    if taught is None:
        return loss
    share = settings.distillation_weight
    learnt = distillation_of(task, settings, outputs, targets, taught.outputs)
    return loss if learnt is None else (1.0 - share) * loss + share * learnt


def task_loss(task: Task, outputs: Outputs, targets: Targets) -> Tensor:
    """Return the task's own loss, a scalar; outputs and targets stay as they are, whatever it does to them.

    Raises:
        CandidateFailure: Where it is no single number that a gradient comes from.
    """
    # in some networks' training the same targets are compared with several outputs
    loss: object = task.loss(outputs.clone(), map_targets(torch.clone, targets))
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise CandidateFailure("recovery", f"the task's loss must give a tensor of one number, it gives {got}")
    return loss.reshape(())


def distillation_of(
    task: Task, settings: TrainingSettings, outputs: Outputs, targets: Targets, taught: Outputs
) -> Tensor | None:
    """Return the loss of distillation, as the task says, or else as it suits what its loss says of the outputs.

    None where nothing is learnt from a teacher's outputs, as where there are several and the task does not say how.

    Args:
        task: Its loss.
        settings: The temperature.
        outputs: The student's.
        targets: Those of the same samples.
        taught: The teacher's outputs, shaped as ``outputs``.
    """
    if task.distillation is not None or isinstance(outputs, Named):
        return distance(outputs, taught, task.distillation, settings.temperature)
    are_logits = outputs_are_logits(task, outputs.shape, targets)
    return distillation_loss(outputs, targets, taught, settings.temperature, are_logits=are_logits)


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


@contextmanager
def trainable(network: nn.Module) -> Iterator[list[nn.Parameter]]:
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
def private_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and set them back afterwards."""
    accelerators = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices=accelerators, device_type=device.type if accelerators else "cuda"):
        torch.manual_seed(seed)
        yield
