"""Training a supernet: every step trains several of its networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Generic

import torch
from torch import Tensor, nn

from ....errors import CandidateFailure
from ...data.batches import Targets
from ...prediction import pick_device
from ...task import Task
from ...training.distillation import Batches
from ...training.precision import outputs_in
from ...training.recovery import TrainingSettings
from ...training.teacher import Teacher, TeacherOutput
from ...training.training_steps import (
    LARGEST_GRADIENT_NORM,
    distillation_of,
    do_nothing,
    one_cycle,
    private_randomness,
    task_loss,
    training_loss,
)
from .networks import Choice, SharedNetworks
from .weights import Supernet


def train_supernet(
    networks: SharedNetworks[Choice],
    task: Task,
    settings: TrainingSettings,
    *,
    teacher: nn.Module | Teacher | None = None,
    between_steps: Callable[[], None] = do_nothing,
) -> Supernet[Choice]:
    """Return a trained supernet, on the CPU and in evaluation mode; its normalization is still to be re-estimated.

    Each step takes the mean gradient of the networks that are drawn for it
    (:meth:`~.networks.SharedNetworks.of_step`). They learn from the targets and the teacher as in
    :func:`~karui.spaces.training.recovery.train`. Where networks are nested only the largest does, and the others
    learn from its outputs alone (in-place distillation: Yu et al., BigNAS, ECCV 2020, arXiv:2003.11142). The last
    weights are kept: no metric speaks for all networks at once. Torch's global random generators are left as they were.

    Args:
        networks: The networks to train.
        task: Data, loss and augmentation.
        settings: How to train; its seed also decides the first weights and which networks are drawn. A supernet wants
            more epochs than one network, and on digits it wanted five times the learning rate. What concerns averages
            and hints is not read.
        teacher: What they learn from, where they are nested the largest alone; left as it is.
        between_steps: Called after each step; it may wait.

    Raises:
        CandidateFailure: Where the loss is not a finite number.
    """
    device = pick_device(settings.device)
    with private_randomness(settings.seed, device), torch.enable_grad():
        supernet = Supernet(networks).to(device).train()
        learned_from = None if teacher is None else Teacher.of(teacher, settings.precision)
        batches = Batches(task, settings.batch_size, learned_from, seed=settings.order_seed, device=device)
        steps = _SupernetSteps(supernet, task, settings, settings.epochs * len(batches), between_steps)
        for epoch in range(1, settings.epochs + 1):
            # one look per epoch: a look per step would make an accelerator wait, and what is not finite stays so
            loss = float(torch.stack([steps.step(*batch) for batch in batches]).sum())
            if not math.isfinite(loss):
                raise CandidateFailure("supernet", f"the loss became {loss} in epoch {epoch} of {settings.epochs}")
    supernet.set(networks.largest())
    return supernet.cpu().eval()


class _SupernetSteps(Generic[Choice]):
    """The optimizer's steps, counted over the whole training."""

    def __init__(
        self,
        supernet: Supernet[Choice],
        task: Task,
        settings: TrainingSettings,
        total: int,
        between_steps: Callable[[], None],
    ) -> None:
        self._supernet, self._task, self._settings = supernet, task, settings
        self._total, self._done = total, 0
        self._between_steps = between_steps
        self._chance = Random(settings.seed)
        self._optimizer = torch.optim.AdamW(
            supernet.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def step(self, inputs: Tensor, targets: Targets, taught: TeacherOutput | None) -> Tensor:
        """Make one step; return the mean loss of its networks, which is on the device still."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * one_cycle((self._done + 0.5) / self._total)
        self._optimizer.zero_grad()
        networks = self._supernet.networks
        choices = networks.of_step(self._chance)
        losses, softened = [], None
        for choice in choices:
            outputs = self._run(choice, inputs)
            if softened is None:
                loss = training_loss(self._task, self._settings, outputs, targets, taught)
                softened = outputs.detach() if networks.are_nested else None
            else:
                learnt = distillation_of(self._task, self._settings, outputs, targets, softened)
                loss = task_loss(self._task, outputs, targets) if learnt is None else learnt
            # the mean, so that gradients are clipped at the norm that holds for one network
            loss = loss / len(choices)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(self._supernet.parameters(), LARGEST_GRADIENT_NORM)
        self._optimizer.step()
        self._done += 1
        self._between_steps()
        return torch.stack(losses).sum()

    def _run(self, choice: Choice, inputs: Tensor) -> Tensor:
        self._supernet.set(choice)
        outputs: Tensor = outputs_in(self._settings.precision, self._supernet, inputs)
        return outputs
