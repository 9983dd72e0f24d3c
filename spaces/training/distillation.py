"""Learning from a teacher: its outputs beside every training batch, and the loss that compares with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CandidateFailure
from ..data.batches import Inputs, Outputs, Targets, map_targets, read_rows, row_batches
from ..data.named import Named
from ..data.structures import take_apart
from ..loss_kind import are_class_indices
from ..networks.memory_layout import channels_first
from ..output_losses import softened_divergence
from ..task import Task
from .teacher import Teacher, TeacherOutput


def distillation_loss(
    outputs: Tensor, targets: Targets, taught: Tensor, temperature: float, *, are_logits: bool = False
) -> Tensor:
    """Return how far the outputs are from the teacher's, a scalar.

    For logits of classes, the Kullback-Leibler divergence of the softened distributions, times the squared temperature
    (Hinton et al. 2015, arXiv:1503.02531, section 2), the mean over samples and places. It is blind to a shift of all
    classes, which is right for logits alone, and shapes do not tell these from embeddings: whoever knows the loss says
    so (:func:`~karui.spaces.loss_kind.outputs_are_logits`). For other rows beside class indices, taken for embeddings,
    the squared distance as a share of the teacher's squared length: for rows of length 1, twice one minus the cosine.
    Otherwise the mean squared error.

    Args:
        outputs: The student's outputs, shape (n, ...).
        targets: The targets of the same samples; only their type and shape matter.
        taught: The teacher's outputs, shaped as ``outputs``.
        temperature: What both logits are divided by.
        are_logits: Whether the outputs are logits of classes, along the second axis.
    """
    if are_logits:
        return softened_divergence(outputs, taught, temperature)
    if outputs.ndim == 2 and outputs.shape[1] >= 2 and are_class_indices(targets):
        length = taught.square().sum(dim=1).mean().clamp(min=torch.finfo(taught.dtype).tiny)
        return (outputs - taught).square().sum(dim=1).mean() / length
    return nn.functional.mse_loss(outputs, taught)


class Batches:
    """Shuffled training batches on the device; each iteration is one epoch in a new order.

    A trailing batch of a single sample is left out, because batch normalization cannot train on it. Equal seeds give
    equal orders and equal random changes, whatever the network that trains on them draws meanwhile, so that a teacher
    that remembers need not run again for the next network.

    Args:
        task: Its ``train`` data and its ``augment``.
        batch_size: Samples per batch.
        teacher: Whose outputs go with the batches.
        seed: Seed of the order and of the random changes.
        device: Where the batches are put.
        with_maps: Whether the teacher's attention maps are wanted as well as its outputs.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        teacher: Teacher | None,
        *,
        seed: int,
        device: torch.device,
        with_maps: bool = False,
    ) -> None:
        self._task = task
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        drawn = int(torch.randint(1 << 62, (), generator=self._order))
        self._changes = torch.Generator().manual_seed(drawn).get_state()
        self._device = device
        self._teacher = teacher
        self._with_maps = with_maps
        self._taught: Outputs | None = None
        if teacher is not None and task.augment is None and not with_maps:
            self._taught = teacher.outputs_of_all(task.train, device)

    def __len__(self) -> int:
        """Return the number of batches in one epoch."""
        full, rest = divmod(len(self._task.train), self._batch_size)  # type: ignore[arg-type]
        return full + (rest > 1 or (rest == 1 and full == 0))

    def __iter__(self) -> Iterator[tuple[Inputs, Targets, TeacherOutput | None]]:
        """Yield inputs, targets, and what the teacher says where there is a teacher."""
        split = self._task.train
        for rows in islice(self._row_batches(), len(self)):
            inputs, targets = read_rows(split, rows)
            targets = map_targets(lambda part: part.to(self._device), targets)
            changed = channels_first(self._augmented(inputs))
            taught = (
                self._teach(changed) if self._taught is None else TeacherOutput(self._taught[rows].to(self._device))
            )
            yield changed.to(self._device), targets, taught

    def _row_batches(self) -> Iterator[Tensor]:
        return row_batches(len(self._task.train), self._batch_size, generator=self._order)  # type: ignore[arg-type]

    def _augmented(self, inputs: Inputs) -> Inputs:
        if self._task.augment is None:
            return inputs
        # fork_rng guards only the CPU's generator, from which changes of a batch on the CPU are drawn
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._changes)
            changed = _changed(self._task.augment, inputs)
            self._changes = torch.get_rng_state()
        if not isinstance(changed, type(inputs)) or len(changed) != len(inputs):
            got = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else f"a {type(changed).__name__}"
            raise CandidateFailure("recovery", f"the task's augment must return {len(inputs)} inputs, it returns {got}")
        return changed

    def _teach(self, inputs: Inputs) -> TeacherOutput | None:
        if self._teacher is None:
            return None
        return self._teacher.taught(inputs, self._device, with_maps=self._with_maps)


def _changed(augment: Callable[[Any], Any], inputs: Inputs) -> Any:
    """Return what the user's augment makes of inputs, which it is given in the structure of the user's data."""
    if not isinstance(inputs, Named):
        return augment(inputs)
    changed = augment(inputs.restored())
    apart = take_apart(changed, naming=inputs.names)
    return Named(apart.parts, inputs.structure) if tuple(apart.parts) == inputs.names else changed
